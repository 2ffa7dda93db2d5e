"""An A/B that looks for its rates first: once, around every arm's knee, for all sessions."""

import json
from pathlib import Path

import pytest

from context_research.compare.ab import pilot
from context_research.compare.ab.sessions import Ab
from context_research.errors import UsageProblem
from context_research.settings.options import SIMULATED_OPT_IN
from tests.support.made_sessions import plan, recorded


def searching(**values):
    """A plan of E0's, whose sessions are stand-ins, that looks for rates all the same."""
    return plan(**values).model_copy(update={"find_rates": True})


@pytest.fixture
def search(monkeypatch):
    """Stands for the search's process: each arm's knee by its text, and what was asked."""
    asked = []

    def run(command, _):
        serving = command[command.index("--serving") + 1]
        asked.append(serving)
        low = {"aggregated": 4.0, "disaggregated": 6.0}.get(serving)
        if low is None:
            return 2
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"knees": [[low, low * 1.1]], "rates": []}))
        return 0

    monkeypatch.setattr(pilot, "_search", run)
    return asked


def test_every_session_has_the_same_rates_around_all_knees(outputs, sessions, search):
    said = []
    Ab.open(outputs, searching(pairs=1)).run(said.append)
    assert search == ["aggregated", "disaggregated"]
    rates = recorded(outputs)["rates"]
    assert rates[0] < 4.0 / 1.15
    assert rates[-1] > 6.6 * 1.15
    assert {each["rates"] for each in sessions.ran} == {",".join(f"{rate:g}" for rate in rates)}
    assert f"rates: {', '.join(f'{rate:g}' for rate in rates)} a second" in said


def test_where_simulating_is_allowed_the_search_is_simulated_first(outputs, sessions, search, monkeypatch):
    monkeypatch.setenv(SIMULATED_OPT_IN, "1")
    backends, said = [], []
    looked_for = pilot._search

    def run(command, log):
        backends.append(command[-1] if command[-1].startswith("--backend") else "real")
        can_be_simulated = command[command.index("--serving") + 1] == "aggregated"
        return looked_for(command, log) if backends[-1] == "real" or can_be_simulated else 2

    monkeypatch.setattr(pilot, "_search", run)
    Ab.open(outputs, searching(pairs=1)).run(said.append)
    assert backends == ["--backend=simulated", "--backend=simulated", "real"]
    assert said.count("found by simulation") == 1


def test_it_goes_on_with_the_rates_that_were_found(outputs, sessions, search):
    asked = searching(pairs=2)
    sessions.before = lambda number: 1 if number == 2 else None
    with pytest.raises(UsageProblem):
        Ab.open(outputs, asked).run(lambda _: None)
    found = recorded(outputs)["rates"]
    sessions.before = lambda _: None
    Ab.open(outputs, asked).run(lambda _: None)
    assert len(search) == 2
    assert recorded(outputs)["rates"] == found
    assert recorded(outputs)["status"] == "completed"


def test_a_search_that_fails_ends_it_before_any_session(outputs, sessions, search):
    arms = {"one": "aggregated", "two": "aggregated-2x"}
    with pytest.raises(UsageProblem, match=r"no rates were found for two; the search's log: .*rates-two\.log"):
        Ab.open(outputs, searching(arms=arms, pairs=1)).run(lambda _: None)
    assert sessions.ran == []
    assert recorded(outputs)["status"] == "stopped"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"find_rates": True}, "e0's load is closed, and rates are an open load's"),
        ({"primary": ["capacity"]}, "--primary capacity: takes an open or replayed load, and limits"),
        ({"primary": ["capacity.p90"]}, "--primary capacity.p90: a session has one capacity; write capacity"),
    ],
)
def test_what_can_have_no_rates_is_refused_when_it_is_planned(values, told):
    with pytest.raises(UsageProblem, match=told):
        plan(**values)
