"""E0's settings and the models they name, by keyword: `workload__repeats=1` sets workload.repeats."""

from context_research.backends.registry import backend_of
from context_research.hardware.devices import Machine, this_machine
from context_research.hardware.placement import place
from context_research.models import hub
from context_research.settings import sources
from context_research.settings.schema import ModelSettings
from context_research.settings.sources import Layer


def resolved(serving="aggregated", device="cpu", **values):
    """E0 on `device`, with the source of each setting."""
    given = {key.replace("__", "."): value for key, value in values.items()}
    layer = Layer("test", {"serving": serving, "device": device, "seed": 0} | given)
    return sources.resolve("e0", [layer], "cpu", "a test")


def chosen(serving="aggregated", device="cpu", **values):
    return resolved(serving, device, **values).settings


def tolerant(serving="aggregated", device="cpu", **values):
    """Settings for cases of half a second: a shared machine that stalls twice meanwhile fails `client`, rightly.

    The check still says what it found; tests/slow/test_planted.py is about that.
    """
    return chosen(serving, device, **({"allow_invalid": ["client", "clock"], "machine__other_load": 1.0} | values))


def small(serving="disaggregated", **values):
    """Settings for a case of a second on real engines."""
    few = {"workload__requests": 5, "workload__repeats": 1, "workload__output_tokens": 8}
    return tolerant(serving, **(few | values))


def resolve_model(name="tiny-qwen3", weights="seeded", **values):
    return hub.resolve(ModelSettings(name=name, weights=weights, **values))


def placement(serving="aggregated", number=0, cores=(0, 1), device="cpu"):
    """Of the serving mode's engine `number`, where a run has these cores or GPUs."""
    return placed(chosen(serving, device), cores)[number]


def machine(device, own, gib=None):
    """A machine with these cores or GPUs; of `gib` GiB (each GPU), else of what this one has."""
    memory = (gib << 30,) * (1 if device == "cpu" else len(own)) if gib else this_machine(device).memory_bytes
    return Machine(device, tuple(own), memory)


def placed(settings, own, gib=None):
    """Where engines go that have these cores or GPUs, all of them."""
    return place(settings.model_copy(update={"devices": tuple(own)}), machine(settings.device, own, gib))


def backend_on(settings, own, gib=None):
    """The settings' backend, on a machine that has these cores or GPUs."""
    backend = backend_of(settings)
    vars(backend)["machine"] = machine(settings.device, own, gib)
    return backend
