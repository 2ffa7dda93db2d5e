"""How a simulated run is named wherever one of its figures is shown, from its artifacts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def device(engines: Sequence[Mapping[str, Any]]) -> str:
    """For rows and titles: ``h200 (aiconfigurator-core 0.12.0, not calibrated)``. `engines` are describe()'s."""
    if (said := _said(engines)) is None:
        return "no engine started"
    steps = said["step_times"]
    return f"{said['device_profile']} ({steps.get('package') or steps['source']}, {_calibrated(said)})"


def warning(engines: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]]) -> str:
    """What a reader must know before any figure: no engine ran, what priced the steps, what is extrapolated."""
    parts = ["> **SIMULATED: no engine ran, these are a model's figures.** vLLM's own scheduler, in virtual time."]
    if said := _said(engines):
        steps = said["step_times"]
        versions = ", ".join(str(steps[key]) for key in ("package", "kernels", "vllm") if steps.get(key))
        parts.append(
            f"Device profile {said['device_profile']} {said['digest']}; step times by {steps['source']}"
            f"{f' ({versions})' if versions else ''}, {_calibrated(said)}."
        )
    if beyond := [f"{case['name']} ({extrapolated(case):.0%} of steps)" for case in cases if extrapolated(case)]:
        parts.append(f"**Extrapolated**, beyond what the step times are known for: {', '.join(beyond)}.")
    return " ".join(parts)


def extrapolated(case: Mapping[str, Any]) -> float:
    """Share of a case's steps whose duration is extrapolated; 0 for a real one's."""
    found = case.get("simulation") or {}
    return found["extrapolated"] / found["steps"] if found.get("steps") else 0.0


def _said(engines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((engine["simulated"] for engine in engines if "simulated" in engine), None)


def _calibrated(said: Mapping[str, Any]) -> str:
    return "calibrated on real runs" if said["calibrated"] else "not calibrated"
