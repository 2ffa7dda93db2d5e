"""How far figures of the simulator were from real ones, where that was measured for its profile."""

from __future__ import annotations

from collections.abc import Mapping

from context_research.compare.family import class_of
from context_research.records.run import ErrorRecord, RunRecord, SimulationRecord

NOT_KNOWN = "error not known for this profile"


def of_figure(run: RunRecord, metric: str, statistic: str) -> str:
    """``median 6.9 %, at most 45 % of 58`` figures; the error of all requests stands for a class's."""
    known = _errors(run).get(class_of(metric)[1], {}).get(statistic)
    return NOT_KNOWN if known is None else f"{_told(known)} of {known.figures}"


def in_words(run: RunRecord) -> str:
    """A sentence on all that is known."""
    return f"No engine ran, so nothing is decided. {known(_profile(run), _errors(run))}"


def known(profile: str, errors: Mapping[str, Mapping[str, ErrorRecord]]) -> str:
    """A sentence on how far off the simulator was."""
    if not errors:
        return f"How far off the simulator is: {NOT_KNOWN}."
    told = "; ".join(
        f"{metric} {statistic} {_told(error)} ({error.figures} figures)"
        for metric, of in errors.items()
        for statistic, error in of.items()
    )
    return (
        f"How far figures simulated with the profile {profile} were from real ones: {told} "
        "(docs/results/simulation-fidelity.md)."
    )


def _told(error: ErrorRecord) -> str:
    return f"median {_percent(error.median)}, at most {_percent(error.worst)}"


def _percent(share: float) -> str:
    return f"{share * 100:.2g} %" if share < 0.0995 else f"{share * 100:.0f} %"


def _errors(run: RunRecord) -> dict[str, dict[str, ErrorRecord]]:
    simulation = _simulation(run)
    return simulation.errors if simulation else {}


def _profile(run: RunRecord) -> str:
    simulation = _simulation(run)
    return simulation.device_profile if simulation else "?"


def _simulation(run: RunRecord) -> SimulationRecord | None:
    return next((engine.simulated for engine in run.engines if engine.simulated), None)
