"""What options of several commands are made of: a share, numbers, limits."""

from __future__ import annotations

from typing import Any

import click

from context_research.settings import options


class Share(click.ParamType[float]):
    """``3%`` or ``0.03``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else options.share(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Numbers(click.ParamType[list[int]]):
    """``6,8,10``."""

    name = "numbers"

    def __init__(self, example: str) -> None:
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return value if isinstance(value, list) else options.integers(value)
        except ValueError:
            self.fail(f"{value}: expected numbers such as {self._example}", param, ctx)


class Limits(click.ParamType[dict[str, float]]):
    """``ttft=2,tpot=0.05``, in seconds."""

    name = "limits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, float]:
        if isinstance(value, dict):
            return value
        try:
            pairs = [part.split("=") for part in value.split(",")]
            return {name.strip(): float(number) for name, number in pairs}
        except ValueError:
            self.fail(f"{value}: expected limits in seconds such as ttft=2,tpot=0.05", param, ctx)
