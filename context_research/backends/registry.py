"""The backends by name, as settings and artifacts name them."""

from __future__ import annotations

from collections.abc import Sequence

from context_research.backends.base import Backend
from context_research.backends.simulated import SimulatedBackend
from context_research.backends.vllm import VllmBackend
from context_research.errors import UsageProblem
from context_research.settings.schema import Settings

BACKENDS: dict[str, type[Backend]] = {kind.name: kind for kind in (VllmBackend, SimulatedBackend)}


def named(name: str) -> type[Backend]:
    """Raises UsageProblem for a name that no backend has: of a run from a version that has others."""
    if name not in BACKENDS:
        raise UsageProblem(f"backend {name!r} is not known here: one of {', '.join(BACKENDS)}")
    return BACKENDS[name]


def backend_of(settings: Settings, sees: Sequence[int] | None = None) -> Backend:
    """The backend of these settings, with state of its own; `sees` as Backend has it."""
    return named(settings.backend)(settings, sees)
