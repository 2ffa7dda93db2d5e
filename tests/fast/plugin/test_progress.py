import re
from time import perf_counter

import pytest

from context_research.measure.case import Progress
from context_research.plugin.progress import format_progress


def shown(**values):
    found = re.fullmatch(r"(\S+): (\d+)/(\d+) requests, (\d+) tokens/s, (\d+) s", format_progress(Progress(**values)))
    assert found
    return found[1], *map(int, found.groups()[1:])


def test_progress_shows_requests_rate_and_time():
    case, done, total, rate, seconds = shown(
        case="p64-c1", total=53, done=12, output_tokens=10_000, started=perf_counter() - 100
    )
    assert (case, done, total, seconds) == ("p64-c1", 12, 53, 100)
    assert rate == pytest.approx(100, abs=1)


def test_progress_can_be_shown_at_once():
    assert shown(case="p64-c1", total=53, started=perf_counter() + 1) == ("p64-c1", 0, 53, 0, 0)
