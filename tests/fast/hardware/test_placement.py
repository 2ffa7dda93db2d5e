"""How the engines of a run share its devices and their memory."""

import pytest

from context_research.errors import UsageProblem
from context_research.hardware.devices import Machine
from context_research.hardware.placement import place, run_devices
from context_research.models.capacity import pool_bytes
from context_research.settings.schema import EngineSpec, Handoff, Serving
from tests.support.settings import chosen, machine, placed, resolve_model


def split(own, given, device="cuda", mode="disaggregated"):
    """Settings with two engines, `given` their keywords, and how `place` puts them on `own`."""
    specs = tuple(EngineSpec(name=role, role=role, **keys) for role, keys in given.items())
    serving = Serving(mode=mode, engines=specs, handoff=Handoff() if mode == "disaggregated" else None)
    return placed(chosen(device=device).model_copy(update={"serving": serving}), own)


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
    placements = placed(chosen(mode, "cuda"), own)
    assert [(placement.devices, placement.memory_share) for placement in placements] == expected
    assert [placement.spec.role for placement in placements] == [e.role for e in chosen(mode).serving.engines]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_engines_on_cpu_share_one_memory_whatever_their_cores(count):
    placements = placed(chosen("disaggregated", "cpu"), tuple(range(count)))
    assert [placement.memory_share for placement in placements] == [0.5, 0.5]


def test_every_device_is_used_once_where_there_are_enough():
    for count in range(2, 9):
        own = tuple(range(count))
        placements = placed(chosen("disaggregated", "cuda"), own)
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


CORES, CARDS = machine("cpu", (0, 1)), machine("cuda", (0, 1), 40)


def test_a_cpu_run_takes_every_core():
    assert run_devices(chosen(), CORES) == (0, 1)


def test_a_gpu_run_takes_the_first_gpu():
    assert run_devices(chosen(device="cuda"), CARDS) == (0,)


def test_named_gpus_are_indices_into_the_visible_ones():
    assert run_devices(chosen(device="cuda", devices=[1, 0]), CARDS) == (1, 0)
    with pytest.raises(UsageProblem, match=r"devices \[3\] are not here: the GPUs of this machine are \[0, 1\]"):
        run_devices(chosen(device="cuda", devices=[0, 3]), CARDS)


@pytest.mark.parametrize("core", [-1, 99999])
def test_cores_that_are_not_here_are_refused(core):
    with pytest.raises(UsageProblem, match=rf"devices \[{core}\] are not here: the CPU cores"):
        run_devices(chosen(devices=[core]), CORES)


def test_a_gpu_run_without_gpus_is_refused():
    with pytest.raises(UsageProblem, match="GPU"):
        run_devices(chosen(device="cuda"), Machine("cuda", ()))


def test_a_device_named_twice_is_refused():
    with pytest.raises(UsageProblem, match="twice"):
        run_devices(chosen(device="cuda", devices=[0, 0]), CARDS)


def test_an_engine_knows_the_memory_of_its_devices():
    cards = Machine("cuda", (0, 1, 2), (10, 20, 30))
    prefill, decode = place(chosen("disaggregated", "cuda", devices=[2, 1]), cards)
    assert (prefill.memory_bytes, decode.memory_bytes) == ((30,), (20,))
    prefill, decode = place(chosen("disaggregated", devices=[0, 1]), Machine("cpu", (0, 1), (100,)))
    assert (prefill.memory_bytes, decode.memory_bytes) == ((100,), (100,)), "one memory, whichever the cores"


def test_the_memory_of_gpus_that_nobody_told_of_is_not_known():
    (placement,) = place(chosen(device="cuda"), Machine("cuda", (0,)))
    assert placement.memory_bytes == ()
    with pytest.raises(UsageProblem, match="needs an NVIDIA driver"):
        pool_bytes(chosen(device="cuda"), resolve_model(), placement)
