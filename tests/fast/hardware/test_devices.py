import contextlib
import os

import pytest

from context_research.errors import UsageProblem
from context_research.hardware import devices
from context_research.hardware.devices import place
from context_research.settings.schema import EngineSpec, Handoff, Serving
from tests.support.settings import chosen


def split(own, given, device="cuda", mode="disaggregated"):
    """Settings with two engines, `given` their keywords, and how `place` puts them on `own`."""
    specs = tuple(EngineSpec(name=role, role=role, **keys) for role, keys in given.items())
    serving = Serving(mode=mode, engines=specs, handoff=Handoff() if mode == "disaggregated" else None)
    return place(chosen(device=device).model_copy(update={"serving": serving}), own)


@pytest.mark.parametrize(
    ("own", "mode", "expected"),
    [
        pytest.param((0,), "aggregated", [((0,), 1)], id="1-device-1-engine"),
        pytest.param((0, 1), "aggregated", [((0, 1), 1)], id="2-devices-1-engine"),
        pytest.param((0, 1, 2), "aggregated", [((0, 1, 2), 1)], id="3-devices-1-engine"),
        pytest.param((4, 5, 6, 7), "aggregated", [((4, 5, 6, 7), 1)], id="4-devices-1-engine"),
        pytest.param((0,), "disaggregated", [((0,), 0.5), ((0,), 0.5)], id="1-device-2-engines"),
        pytest.param((0, 1), "disaggregated", [((0,), 1), ((1,), 1)], id="2-devices-2-engines"),
        pytest.param((0, 1, 2), "disaggregated", [((0, 1), 1), ((2,), 1)], id="3-devices-2-engines"),
        pytest.param((4, 5, 6, 7), "disaggregated", [((4, 5), 1), ((6, 7), 1)], id="4-devices-2-engines"),
    ],
)
def test_gpus_are_split_evenly(own, mode, expected):
    placements = place(chosen(mode, "cuda"), own)
    assert [(placement.devices, placement.memory_share) for placement in placements] == expected
    assert [placement.spec.role for placement in placements] == [e.role for e in chosen(mode).serving.engines]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_engines_on_cpu_share_one_memory_whatever_their_cores(count):
    placements = place(chosen("disaggregated", "cpu"), tuple(range(count)))
    assert [placement.memory_share for placement in placements] == [0.5, 0.5]


def test_every_device_is_used_once_where_there_are_enough():
    for count in range(2, 9):
        own = tuple(range(count))
        placements = place(chosen("disaggregated", "cuda"), own)
        assert sorted(device for placement in placements for device in placement.devices) == list(own)


def test_named_devices_are_kept():
    placements = split((0, 1, 2, 3), {"prefill": {"devices": (3,)}, "decode": {"devices": (0, 1)}})
    assert [placement.devices for placement in placements] == [(3,), (0, 1)]
    assert [placement.memory_share for placement in placements] == [1, 1]


def test_engines_that_overlap_share_memory():
    placements = split((0, 1), {"prefill": {"devices": (0, 1)}, "decode": {"devices": (1,)}})
    assert [placement.memory_share for placement in placements] == [0.5, 0.5]


def test_named_shares_are_kept():
    placements = split((0,), {"prefill": {"memory_share": 0.25}, "decode": {"memory_share": 0.75}})
    assert [placement.memory_share for placement in placements] == [0.25, 0.75]


def test_devices_outside_the_runs_are_refused():
    with pytest.raises(UsageProblem, match=r"engine decode: devices \[5, 6\] are not among the run's \[0, 1\]"):
        split((0, 1), {"prefill": {}, "decode": {"devices": (6, 0, 5)}})


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_shares_over_the_whole_are_refused(device):
    with pytest.raises(UsageProblem, match=r"memory_share of prefill, decode adds up to 1\.20: at most 1"):
        split((0,), {"prefill": {"memory_share": 0.6}, "decode": {"memory_share": 0.6}}, device)


def test_shares_of_different_gpus_do_not_add_up():
    placements = split((0, 1), {"prefill": {"memory_share": 0.9}, "decode": {"memory_share": 0.9}})
    assert [placement.memory_share for placement in placements] == [0.9, 0.9]


def test_shares_of_different_cores_do_add_up():
    with pytest.raises(UsageProblem, match="adds up"):
        split((0, 1), {"prefill": {"memory_share": 0.9}, "decode": {"memory_share": 0.9}}, "cpu")


def test_an_unnamed_share_is_the_rest():
    placements = split((0,), {"prefill": {"memory_share": 0.7}, "decode": {}})
    assert [placement.memory_share for placement in placements] == [0.7, pytest.approx(0.3)]


def test_a_cpu_run_takes_every_core_this_process_may_use():
    assert devices.run_devices(chosen()) == tuple(sorted(os.sched_getaffinity(0)))


def test_a_gpu_run_takes_the_first_gpu(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["3", "4"])
    assert devices.run_devices(chosen(device="cuda")) == (0,)


def test_named_gpus_are_indices_into_the_visible_ones(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["3", "4"])
    assert devices.run_devices(chosen(device="cuda", devices=[1, 0])) == (1, 0)
    with pytest.raises(UsageProblem, match=r"devices \[3\] are not here: the GPUs of this machine are \[0, 1\]"):
        devices.run_devices(chosen(device="cuda", devices=[0, 3]))


@pytest.mark.parametrize("core", [-1, 99999])
def test_cores_that_are_not_here_are_refused(core):
    with pytest.raises(UsageProblem, match=rf"devices \[{core}\] are not here: the CPU cores"):
        devices.run_devices(chosen(devices=[core]))


def test_a_gpu_run_without_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", list)
    with pytest.raises(UsageProblem, match="GPU"):
        devices.run_devices(chosen(device="cuda"))


def test_a_device_named_twice_is_refused(monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["0", "1"])
    with pytest.raises(UsageProblem, match="twice"):
        devices.run_devices(chosen(device="cuda", devices=[0, 0]))


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


def test_without_a_driver_gpu_memory_is_a_usage_problem(no_driver):
    with pytest.raises(UsageProblem, match="needs an NVIDIA driver"):
        devices.memory_bytes(chosen(device="cuda"), 0)


def test_without_a_driver_the_machine_is_still_described(no_driver):
    machine = devices.describe()
    assert (machine["gpus"], machine["driver"], machine["topology"]) == ([], None, {})
    assert machine["cpu"]["cores"] == sorted(os.sched_getaffinity(0))
    assert machine["cpu"]["memory_bytes"] == devices.memory_bytes(chosen(), 0) > 0


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
