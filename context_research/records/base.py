"""What every record is: closed, immutable, checked; its JSON Schema is what the class says."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCHEMA_VERSION: Literal[3] = 3
"""Raised whenever a file means something else; `upgrade.py` reads the versions before."""

Count = Annotated[int, Field(ge=0)]

JsonObject = dict[str, JsonValue]
"""Plain data whose keys are another's: vLLM's configuration, a site's own facts."""


class Record(BaseModel):
    """A part of an artifact. Unknown keys are errors, so that a file of another meaning is not taken for ours."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True)


class Artifact(Record):
    """A whole file."""

    schema_version: Literal[3] = SCHEMA_VERSION
