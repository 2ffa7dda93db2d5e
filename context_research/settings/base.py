"""What every group of settings is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Integer = Annotated[int, Field(strict=True)]  # `"8"` and `true` are no integers
Positive = Annotated[Integer, Field(gt=0)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Field(strict=True)]


class Section(BaseModel):
    """A group of settings: closed (unknown keys are errors), immutable, and not coerced (`"8"` is no integer)."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
