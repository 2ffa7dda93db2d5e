"""Device profiles: what the simulated backend knows of a machine, and where each number comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from context_research.errors import UsageProblem
from context_research.models.model import Model
from context_research.settings.base import Number, Positive, Section, Switch
from context_research.settings.schema import CONFIGS, Device, Role
from context_research.settings.sources import read_yaml

Seconds = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0)]


class Fit(Section):
    """A linear step-time model fitted on one kind of engine's own step records (fidelity/calibrate.py).

    Seconds of a step = the sum of coefficient × feature of its Batch, with `constant` for every step. `ranges` are the
    smallest and largest of each feature that it was fitted on: outside, a figure is extrapolated. `residuals` are
    shares of the measured duration.
    """

    model: str
    """Model.label: name, weights and their hash."""
    dtype: str
    role: Role
    devices: Positive
    """How many GPUs or CPU cores the engine had."""
    coefficients: dict[str, Seconds]
    """Of an engine that has the machine to itself."""
    contention: Seconds | None = None
    """Slowdown per other busy engine: beside n of them a step takes 1 + `contention` × n times as long. None: not
    measured; 1 is assumed on a device that engines share, 0 otherwise."""
    ranges: dict[str, tuple[Number, Number]]
    residuals: dict[str, Number]
    steps: Positive
    runs: tuple[str, ...]
    vllm: str | None = None


class Linear(Section):
    """Step times by fits on real runs."""

    source: Literal["linear"]
    fits: Annotated[tuple[Fit, ...], Field(min_length=1)]


class AIConfigurator(Section):
    """Step times by NVIDIA's aiconfigurator-core, from its kernel measurements: seconds × `scale` + `overhead_s`."""

    source: Literal["aiconfigurator"]
    system: str
    """aiconfigurator's name of the GPU, such as h200_sxm."""
    scale: Annotated[Number, Field(gt=0)] = 1.0
    overhead_s: Seconds = 0.0
    calibrated: tuple[str, ...] = ()
    """Run ids that `scale` and `overhead_s` were fitted on; empty: as aiconfigurator has them."""


class Link(Section):
    """One KV read between two engines: seconds = latency_s + descriptors × descriptor_s + bytes / bandwidth."""

    latency_s: Seconds = 0.0
    descriptor_s: Seconds = 0.0
    bandwidth: Annotated[Number, Field(gt=0)]
    """Bytes a second."""
    same_device_bandwidth: Annotated[Number, Field(gt=0)] | None = None
    """Where both engines are on one GPU, if that is faster than between two."""
    between_steps: Switch = False
    """Whether a read goes on only once the engine that is read from is between two steps: NIXL without its progress
    thread, which is off on CPU (engines/vllm/nixl_connector.py)."""

    def seconds(self, size: int, pieces: int, *, same_device: bool = False) -> float:
        """A read of `size` bytes in `pieces` (`descriptors`)."""
        return self.latency_s + pieces * self.descriptor_s + size / self.bandwidth_of(same_device)

    def bandwidth_of(self, same_device: bool) -> float:
        return (same_device and self.same_device_bandwidth) or self.bandwidth


def descriptors(model: Model, tokens: int, block_tokens: int) -> int:
    """Pieces in which NIXL reads the KV of so many tokens: one for each layer, K or V, and block (docs/handoff.md)."""
    return 2 * int(model.config["num_hidden_layers"]) * -(-tokens // block_tokens)


class Client(Section):
    """Between client and engine: a request reaches the engine `submit_s` + prompt tokens × `submit_token_s` after it
    was sent, one after another; a token reaches the client `deliver_s` after the engine had it."""

    submit_s: Seconds = 0.0
    submit_token_s: Seconds = 0.0
    deliver_s: Seconds = 0.0

    def to_engine_s(self, prompt_tokens: float) -> float:
        """Seconds from a request's sending to its arrival at the engine."""
        return self.submit_s + self.submit_token_s * prompt_tokens


class KnownError(Section):
    """|simulated ÷ real − 1| of one kind of figure, over the cases and arms that were held against real runs."""

    median: Share
    worst: Share
    figures: Positive


class Fidelity(Section):
    """How far figures simulated with this very profile were from real ones: metric -> statistic -> its error.

    `sources`: the kept reports of `context-research fidelity` that it is made from
    (benchmarks/studies/simulation/profile_errors.py).
    """

    errors: dict[str, dict[str, KnownError]]
    sources: Annotated[tuple[str, ...], Field(min_length=1)]


class DeviceProfile(Section):
    """One kind of machine. `provenance` says of each number where it comes from."""

    name: str
    device: Device
    count: Positive
    """GPUs, or CPU cores."""
    memory_bytes: Positive
    """Of one GPU, or of the machine."""
    gpu_names: tuple[str, ...] = ()
    """NVML names of the GPUs that this profile is for."""
    link: Link
    client: Client = Client()
    step_time: Annotated[Linear | AIConfigurator, Field(discriminator="source")]
    provenance: Annotated[dict[str, str], Field(min_length=1)]
    fidelity: Fidelity | None = None
    """None: never held against real runs."""

    @property
    def digest(self) -> str:
        """Says of two profiles of one name whether they simulate the same."""
        return sha256(self.model_dump_json(exclude={"fidelity"}).encode()).hexdigest()[:8]

    @property
    def errors(self) -> dict[str, Any]:
        """Metric -> statistic -> its error, in plain data; empty where it was never held against real runs."""
        return dict(self.fidelity.model_dump()["errors"]) if self.fidelity else {}

    @property
    def calibrated(self) -> bool:
        """Whether its step times were fitted on real runs."""
        return isinstance(self.step_time, Linear) or bool(self.step_time.calibrated)


def names() -> list[str]:
    """The shipped profiles: the files of configs/devices."""
    return sorted(path.stem for path in (CONFIGS / "devices").glob("*.yaml"))


def of_machine(device: Device, gpus: Sequence[str]) -> str | None:
    """The shipped profile that fits a machine: by its GPU's NVML name, or any of a CPU. None where there is none."""
    for name in names():
        profile = load(name)
        if profile.device == device and (device == "cpu" or set(gpus) & set(profile.gpu_names)):
            return name
    return None


def load(named: str) -> DeviceProfile:
    """A shipped profile by its name, or one from a YAML file. Raises UsageProblem."""
    path = Path(named) if named.endswith((".yaml", ".yml")) else CONFIGS / "devices" / f"{named}.yaml"
    if path.parent == CONFIGS / "devices" and not path.is_file():
        raise UsageProblem(
            f"unknown device profile {named!r}: choose from {', '.join(names())}, or name a YAML file "
            "(--device-profile, context-research calibrate makes one)"
        )
    return validated(read_yaml(path), str(path))


def validated(tree: Mapping[str, object], origin: str) -> DeviceProfile:
    """The profile in a file's mapping. Raises UsageProblem with the first wrong key."""
    try:
        return DeviceProfile.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageProblem(f"{origin}: {key}: {first['msg']}, got {first['input']!r:.60}") from None
