"""The matrix of faults: when a cell holds, and what of it stands in the page."""

import pytest

from tests.support.studies import study


@pytest.fixture
def faults():
    return study("faults", "faults")


@pytest.fixture
def strikes():
    return study("faults", "strikes")


@pytest.fixture
def cell(faults):
    def made(**values):
        usual = {
            "fault": "SIGTERM",
            "phase": "measured",
            "code": 143,
            "status": "interrupted",
            "finished": 1,
            "kept": 1,
            "report": True,
            "orphans": 0,
            "seconds": 9.0,
            "traceback": False,
            "struck": True,
        }
        return faults.Cell(**(usual | values))

    return made


def test_a_cell_that_ended_whole_holds(cell):
    assert cell().holds
    assert cell().shown == "143 interrupted, 1 of 1, report"


@pytest.mark.parametrize(
    ("missed", "shown"),
    [
        ({"code": None}, "**hangs**"),
        ({"orphans": 2}, "**2 left running**"),
        ({"kept": 0}, "0 of 1"),
        ({"traceback": True}, "**traceback**"),
        ({"struck": False}, "**not struck**"),
    ],
    ids=["hangs", "orphans", "lost", "traceback", "not-struck"],
)
def test_what_misses_the_bar_is_seen(cell, missed, shown):
    assert not cell(**missed).holds
    assert shown in cell(**missed).shown


def test_the_page_has_the_matrix_and_keeps_the_rest(faults, cell, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- matrix -->\nold\n<!-- end of matrix -->\nafter\n")
    cells = {"simulated": [cell(), cell(phase="report", fault="SIGKILL", code=137)], "real": []}
    faults.write(cells, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    rows = [[part.strip() for part in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["phase", "SIGTERM", "SIGKILL"]
    assert rows[2:] == [
        ["measured", "143 interrupted, 1 of 1, report", "–"],
        ["report", "–", "137 interrupted, 1 of 1, report"],
    ]


def test_every_fault_and_phase_of_the_program_can_be_struck(faults, strikes):
    assert {*faults.SIMULATED, *faults.REAL} <= set(strikes.FAULTS)
    assert set(faults.REAL_PHASES) <= set(strikes.PHASES)
