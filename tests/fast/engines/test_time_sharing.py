"""A device or link shared in time: of n jobs each goes on at an nth of its speed."""

import asyncio

import pytest

from context_research.engines.simulated import profiles
from context_research.engines.simulated.clock import VirtualTimeLoop
from context_research.engines.simulated.machine import SimulatedMachine
from context_research.engines.simulated.time_sharing import TimeShared
from tests.support.settings import placement

pytestmark = pytest.mark.simulated


def ends(*jobs, cancel=()):
    """When each of `jobs`, (begins, seconds of work), was done; `cancel` names some by (number, moment)."""
    found = {}

    async def run(device, number, begins, seconds):
        await asyncio.sleep(begins)
        try:
            await device.run(seconds)
        except asyncio.CancelledError:
            return
        found[number] = asyncio.get_running_loop().time()

    async def every():
        device = TimeShared()
        tasks = [asyncio.create_task(run(device, number, *job)) for number, job in enumerate(jobs)]
        for number, moment in cancel:
            asyncio.get_running_loop().call_at(moment, tasks[number].cancel)
        await asyncio.gather(*tasks)

    loop = VirtualTimeLoop()
    loop.run_until_complete(every())
    loop.close()
    return found


def test_alone_work_takes_its_time():
    assert ends((1, 2)) == {0: 3}


def test_one_after_another_share_nothing():
    assert ends((0, 1), (1, 1), (2, 1)) == {0: 1, 1: 2, 2: 3}


def test_two_that_begin_together_take_twice_as_long():
    assert ends((0, 1), (0, 1)) == {0: 2, 1: 2}


def test_two_that_overlap_share_for_as_long_as_they_do():
    """The first is alone for 1 s, they share until its other second is done at 3; the second has 2 of 3 left then."""
    assert ends((0, 2), (1, 3)) == {0: 3, 1: 5}


def test_three_of_different_length():
    """3 s a second of each; then 2 s; the last is alone for its third second."""
    assert ends((0, 1), (0, 2), (0, 3)) == {0: 3, 1: 5, 2: 6}


def test_work_is_kept_whoever_comes_and_goes():
    jobs = [(0.25, 1.5), (0.5, 0.125), (0.5, 2), (3, 0.75), (4, 0.0625)]
    assert max(ends(*jobs).values()) == 0.25 + sum(seconds for _, seconds in jobs)


def test_a_cancelled_one_gives_its_part_back():
    """At 2 both have had 1 s of work; the second goes on alone."""
    assert ends((0, 4), (0, 4), cancel=[(0, 2)]) == {1: 5}


def test_all_cancelled_leave_a_free_device():
    assert ends((0, 4), (0, 4), (3, 1), cancel=[(0, 1), (1, 1)]) == {2: 4}


def test_no_work_takes_no_time_and_slows_nobody():
    assert ends((0, 2), (1, 0)) == {0: 2, 1: 1}


@pytest.fixture
def shared_machine():
    return SimulatedMachine(profiles.load("h200"))


def test_engines_of_one_gpu_share_it_and_those_of_another_do_not(shared_machine):
    first, second, other = (placement("aggregated", 0, (gpu,), "cuda") for gpu in (0, 0, 1))
    assert shared_machine.device(first) is shared_machine.device(second)
    assert shared_machine.device(first) is not shared_machine.device(other)
    assert shared_machine.link(first) is not shared_machine.device(first)


def test_cores_share_one_machine():
    shared_machine = SimulatedMachine(profiles.load("cpu-2core"))
    assert shared_machine.device(placement(cores=(0,))) is shared_machine.device(placement(cores=(1,)))


def test_another_simulated_machine_shares_nothing(shared_machine):
    again = SimulatedMachine(shared_machine.profile)
    gpu = placement("aggregated", 0, (0,), "cuda")
    assert again.device(gpu) is not shared_machine.device(gpu)
    assert again.loop is not shared_machine.loop
    assert again.client is not shared_machine.client


@pytest.mark.parametrize(("name", "kind", "memories"), [("h200", "cuda", 8), ("cpu-2core", "cpu", 1)])
def test_it_has_what_its_profile_says(name, kind, memories):
    profile = profiles.load(name)
    devices = SimulatedMachine(profile).devices
    assert (devices.kind, devices.indices) == (kind, tuple(range(profile.count)))
    assert devices.memory_bytes == (profile.memory_bytes,) * memories
