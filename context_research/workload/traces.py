"""Traces: requests as somebody recorded them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from context_research.settings.workload import Trace


@dataclass(frozen=True, slots=True)
class Rows:
    """A trace's requests in order of time. `at`: seconds; a request without a class has an empty class name."""

    at: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    class_names: tuple[str, ...]
    left_out: int = 0


def read(file: str, format: str = "auto") -> Rows:
    raise NotImplementedError


def replayed(trace: Trace, rng: np.random.Generator | None) -> Rows:
    raise NotImplementedError
