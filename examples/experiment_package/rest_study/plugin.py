"""Hooks of context-research: each function here adds one thing. docs/extending.md walks through them."""

from pathlib import Path

import pytest

from context_research.measure.checks.registry import Check, judged
from context_research.measure.metrics import Metric
from context_research.records import store
from context_research.records.summary import SummaryRecord
from context_research.report.sections import Section
from context_research.report.tables import table
from context_research.settings.experiments import Experiment
from rest_study.engine import Logged

HERE = Path(__file__).parent


def pytest_context_research_experiments():
    """Its name is that in the test's mark and in the YAML; `configs` is the folder of rest.yaml."""
    return [Experiment("rest", folder=HERE / "experiments" / "rest", configs=HERE / "configs")]


def answer_time(repeat):
    """Last token − first token, of each request: one sample a request, in seconds."""
    return [timeline.token_times[-1] - timeline.token_times[0] for timeline in repeat.timelines]


def pytest_context_research_metrics():
    """Metrics in seconds are rows in pytest-benchmark, and can be named in `verdict --primary answer_time`."""
    return [Metric("answer_time", "s", answer_time)]


PATIENCE_S = 60.0


def patient(evidence):
    """A judge gets all that is known of a measured case. Its evidence is one line, with the figures behind it."""
    longest = max((t.token_times[0] - t.scheduled for t in evidence.measured if t.token_times), default=0.0)
    return judged("patient", longest <= PATIENCE_S, f"the longest wait for a first token was {longest:.3f} s")


def pytest_context_research_checks():
    """A case that fails it is invalid: it is in no comparison, and its test fails."""
    return [Check("patient", patient)]


@pytest.hookimpl(wrapper=True)
def pytest_context_research_make_engine():
    """A wrapper: takes the engine that the run's backend made, and gives one around it. Without `wrapper`, return
    an engine of your own, or None where you have none."""
    return Logged((yield))


def pytest_context_research_report_sections(run_folder):
    """Made from the run's records, and put at the end of its report."""
    (path,) = run_folder.glob("*_summary.json")
    cases = store.read(path, SummaryRecord).cases
    rows = [(case.name, case.axes["rest_s"], f"{case.metrics['answer_time'].mean * 1e3:.2f}") for case in cases]
    return [Section("Answers after a rest", table(rows, ("case", "rest, s", "mean answer time, ms")))]
