"""What a serving mode is called wherever its figures are shown: its engines, and on how many devices they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from context_research.records.run import EngineRecord, RunRecord
from context_research.settings.schema import Settings


def of_run(run: RunRecord) -> str:
    """``1P1D ×2``; of a run whose engines never started what was planned, without devices."""
    specs = run.setting("serving.engines")
    planned = [str(spec.get("role")) for spec in specs if isinstance(spec, dict)] if isinstance(specs, list) else []
    started = _once(run.engines)
    return _told(planned or [engine.role for engine in started], _devices(run.device, started))


def of_engines(device: str, engines: Iterable[EngineRecord]) -> str:
    """Of what engines say of themselves; `device`: cuda or cpu."""
    started = _once(engines)
    return _told([engine.role for engine in started], _devices(device, started))


def of_settings(settings: Settings) -> str:
    """Before anything has run."""
    specs = settings.serving.engines
    named = settings.devices or {device for spec in specs for device in spec.devices or ()}
    return _told([spec.role for spec in specs], (len(named) or 1) if settings.device == "cuda" else 0)


def _once(engines: Iterable[EngineRecord]) -> Sequence[EngineRecord]:
    """Each engine as it first started: one that had died is in a record again."""
    return list({engine.name: engine for engine in reversed(list(engines))}.values())


def _devices(device: str, engines: Sequence[EngineRecord]) -> int:
    return len({index for engine in engines for index in engine.devices}) if device == "cuda" else 0


def _told(roles: Sequence[str], gpus: int) -> str:
    """``2P1D ×3``, ``1 engine ×1``, ``2 replicas ×2``; on a CPU, which is one device, without the number of them."""
    if alone := roles.count("aggregated"):
        engines = "1 engine" if alone == 1 else f"{alone} replicas"
    else:
        engines = f"{roles.count('prefill')}P{roles.count('decode')}D"
    return f"{engines} ×{gpus}" if gpus else engines
