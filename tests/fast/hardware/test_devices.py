import contextlib
import os

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
    """NVML with two cards."""

    def nvmlDeviceGetCount(self):
        return 2


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
