import contextlib
import os
from types import SimpleNamespace

import pytest

from context_research.hardware import devices


@pytest.fixture
def no_driver():
    with devices.nvml() as library:
        if library is not None:
            pytest.skip("an NVIDIA driver answers here")


@pytest.mark.parametrize("visible", [None, "", "-1", "0", "0,1", "GPU-3f9a"])
def test_without_a_driver_the_device_is_the_cpu_whatever_is_visible(no_driver, monkeypatch, visible):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible_gpus() == []
    assert devices.detect() == ("cpu", "no NVIDIA driver answers")


def test_without_a_driver_there_are_no_gpus_to_place_engines_on(no_driver):
    assert devices.this_machine("cuda") == devices.Machine("cuda", ())


def test_a_cpu_machine_has_the_cores_that_this_process_may_use():
    here = devices.this_machine("cpu")
    assert here.indices == tuple(sorted(os.sched_getaffinity(0)))
    assert here.memory_of([0]) == here.memory_of([0, 1]) == here.memory_bytes


def test_without_a_driver_the_machine_is_still_described(no_driver):
    machine = devices.describe()
    assert (machine["gpus"], machine["driver"], machine["topology"]) == ([], None, {})
    assert machine["cpu"]["cores"] == sorted(os.sched_getaffinity(0))
    assert machine["cpu"]["memory_bytes"] == devices.this_machine("cpu").memory_bytes[0] > 0


class Driver:
    """NVML with two cards of `memory` GiB; the second does not tell its highest clocks."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = range(2)
    NVMLError = LookupError
    memory = (80, 40)

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlSystemGetDriverVersion(self):
        return "575.1"

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetHandleByUUID(self, name):
        return {"GPU-3f9a": 0, "GPU-77bb": 1}[name]

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(total=self.memory[handle] << 30)

    def nvmlDeviceGetName(self, handle):
        return f"card {handle}"

    def nvmlDeviceGetEnforcedPowerLimit(self, _):
        return 700_000

    def nvmlDeviceGetClockInfo(self, _, clock):
        return 1_000 + clock

    def nvmlDeviceGetMaxClockInfo(self, handle, clock):
        if handle == 1:
            raise self.NVMLError
        return 2_000 + clock

    def nvmlDeviceGetTopologyCommonAncestor(self, *_):
        return 30

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return 1_500 * (handle + 1)


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.setattr(devices, "nvml", lambda: contextlib.nullcontext(Driver()))


@pytest.mark.parametrize(
    ("visible", "gib"),
    [(None, (80, 40)), ("1", (40,)), ("GPU-77bb,GPU-3f9a", (40, 80)), ("", ())],
    ids=["all", "one", "uuids in another order", "none"],
)
def test_a_gpu_machine_has_the_visible_gpus_each_with_its_memory(cards, monkeypatch, visible, gib):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    there = devices.this_machine("cuda")
    assert there == devices.Machine("cuda", tuple(range(len(gib))), tuple(size << 30 for size in gib))


def test_energy_is_that_of_the_gpus_asked_for(cards):
    assert devices.joules([0]) == 1.5
    assert devices.joules([0, 1]) == 4.5


def test_each_card_is_described(cards):
    machine = devices.describe()
    assert (machine["driver"], machine["topology"]) == ("575.1", {"0-1": 30})
    assert machine["gpus"][0] == {
        "id": "0",
        "name": "card 0",
        "memory_bytes": 80 << 30,
        "power_limit_w": 700.0,
        "sm_clock_mhz": 1_000.0,
        "sm_clock_max_mhz": 2_000.0,
        "memory_clock_mhz": 1_001.0,
        "memory_clock_max_mhz": 2_001.0,
    }
    assert machine["gpus"][1]["sm_clock_max_mhz"] is None


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [
        pytest.param(None, ["0", "1"], id="unset"),
        pytest.param("1", ["1"], id="index"),
        pytest.param(" 1 , 0 ", ["1", "0"], id="spaces-and-order"),
        pytest.param("GPU-3f9a,GPU-77bb", ["GPU-3f9a", "GPU-77bb"], id="uuids"),
        pytest.param("", [], id="empty"),
        pytest.param("-1", [], id="minus-one"),
    ],
)
def test_cuda_visible_devices_names_the_gpus(monkeypatch, visible, gpus):
    monkeypatch.setattr(devices, "nvml", lambda: contextlib.nullcontext(Driver()))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.visible_gpus() == gpus
    kind, why = devices.detect()
    assert kind == ("cuda" if gpus else "cpu")
    assert (",".join(gpus) if gpus else "hides every GPU") in why
