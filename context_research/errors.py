"""The ways in which a run can't go on, each carrying one line that names the problem and the fix."""

import re
from collections import Counter
from collections.abc import Iterable


class UsageProblem(Exception):
    """The input is wrong: settings, files, arguments. Raised before any engine starts."""

    def __init__(self, told: str) -> None:
        # Input is quoted in it, and that may have lines.
        super().__init__(re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", told).strip())


class StorageFailure(UsageProblem):
    """Nothing more can be written: the disk is full, or read-only. Told as wrong input is."""


class EngineFailure(Exception):
    """An engine could not start, or died. The message names the engine and quotes its own reason."""


def given_twice(names: Iterable[str]) -> str | None:
    """The first of the names that stands there more than once: of what must differ, for a UsageProblem to tell."""
    return next((name for name, count in Counter(names).items() if count > 1), None)
