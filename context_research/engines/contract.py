"""What an engine must be, checked when it is made and when it has started: one of yours may lack something."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from context_research.engines.base import Counters, Engine, Evidence, capabilities
from context_research.errors import UsageProblem
from context_research.hardware.placement import Placement
from context_research.records.run import EngineRecord

_REQUIRED = ("name", "role", "log", "counters", "dead")
_METHODS = ("start", "close", "serve", "describe")
OUR_OWN = "context_research.engines.vllm.engine.VllmEngine"


def check(engine: Engine, placement: Placement) -> None:
    """Raises UsageProblem, in one line: what the engine lacks, or what it is that it must not be."""
    methods = [*_METHODS]
    if Evidence.RESETS in capabilities(engine):
        methods.append("reset_prefix_cache")
    missing = [name for name in _REQUIRED if not hasattr(engine, name)]
    missing += [name for name in methods if not callable(getattr(engine, name, None))]
    if missing:
        raise _problem(engine, f"it lacks {', '.join(missing)}")
    wanted = placement.spec.name, placement.spec.role
    if (engine.name, engine.role) != wanted:
        own, asked = (f"{name!r} in role {role!r}" for name, role in ((engine.name, engine.role), wanted))
        raise _problem(engine, f"it is {own}, asked for was {asked}")
    if not isinstance(engine.counters, Counters):
        raise _problem(engine, f"its counters are {type(engine.counters).__name__}, not Counters")
    if unknown := sorted(map(str, set(capabilities(engine)) - set(Evidence))):
        raise _problem(engine, f"its capabilities name {unknown[0]!r}; of {', '.join(Evidence)}")


def described(engine: Engine, placement: Placement) -> EngineRecord:
    """The engine as artifacts hold it: what it says of itself, and what every reader may rely on.

    Raises UsageProblem where it describes itself by no mapping, or gives a known key another meaning.
    """
    own: object = engine.describe()
    if not isinstance(own, Mapping):
        raise _problem(engine, f"its describe() gives {type(own).__name__}, not a mapping")
    always = {"name": engine.name, "role": engine.role, "class": class_of(engine)}
    try:
        return EngineRecord.model_validate({"devices": placement.devices, **own, **always})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise _problem(engine, f"its describe() gives {key}: {first['msg']}, got {first['input']!r:.60}") from None


def class_of(engine: Engine) -> str:
    """Module and name of its Python class."""
    return f"{type(engine).__module__}.{type(engine).__qualname__}"


def foreign(engines: Iterable[Engine]) -> list[str]:
    """The classes of engines that are not our own, which may answer otherwise."""
    return sorted({class_of(engine) for engine in engines} - {OUR_OWN})


def _problem(engine: Engine, why: str) -> UsageProblem:
    return UsageProblem(f"{class_of(engine)} is no engine: {why} (engines/base.py)")
