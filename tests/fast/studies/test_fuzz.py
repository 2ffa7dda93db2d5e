"""benchmarks/studies/fuzz: a part of it, and that it would see a traceback."""

import pytest

from context_research.errors import UsageProblem
from tests.support.studies import study


@pytest.fixture
def fuzz():
    return study("fuzz", "fuzz")


def test_no_spoilt_input_ends_in_a_traceback(fuzz, here):
    tallies = fuzz.run(here, settings=300, artifacts=60, seed=0, beat=lambda: None)
    assert [f"{defect.kind} {defect.number}: {defect.told}" for tally in tallies for defect in tally.defects] == []
    assert sum(tally.inputs for tally in tallies) == 360
    # Neither all refused at the door nor all let by.
    assert all(tally.endings["one line"] for tally in tallies)
    assert sum(tally.endings.get("works", 0) for tally in tallies) >= 15


def fails_with(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "ending"),
    [
        (lambda: None, "works"),
        (lambda: "ERROR: one", "one line"),
        (lambda: "two\nlines", "NOT ONE LINE"),
        (lambda: "", "NOT ONE LINE"),
        (fails_with(UsageProblem("told")), "one line"),
        (fails_with(KeyError("x")), "TRACEBACK"),
        (fails_with(MemoryError()), "TRACEBACK"),
    ],
    ids=["works", "one", "two", "nothing", "usage problem", "key error", "memory"],
)
def test_what_counts_as_a_defect(call, ending):
    tally = study("fuzz", "endings").run("made", lambda _: ("what", call), 2, seed=0)
    assert tally.endings == {ending: 2}
    assert len(tally.defects) == (2 if ending in ("TRACEBACK", "NOT ONE LINE") else 0)


def test_an_input_is_the_same_again(fuzz, here):
    """A defect is found again by its number."""
    inputs = study("fuzz", "settings_inputs").Inputs(here)
    endings = study("fuzz", "endings")
    seen = []
    for _ in range(2):
        endings.run("made", lambda random: (seen.append(inputs.set_option(random)[0]) or "", lambda: None), 5, seed=3)
    assert seen[:5] == seen[5:]
    assert len(set(seen)) > 1
