"""E0 over two workers, each with engines on its own core: the same requests, one record, one set of rows."""

import json

from context_research.engines import step_records
from tests.support.artifacts import metadata, rows_saved, sent
from tests.support.suite import SMALL


def test_two_workers_make_the_run_that_one_process_makes(suite, aggregated):
    suite.inside("--seed=0", *SMALL, "--run-id=serial", lend=[aggregated]).assert_outcomes(passed=2)
    result = suite.outside("--seed=0", *SMALL, "--run-id=spread", "-n2", "--device-groups=0;1")
    result.assert_outcomes(passed=2)
    serial, spread = (suite.path / "outputs" / "runs" / name for name in ("serial", "spread"))
    assert sent(serial) == sent(spread)
    recorded = metadata(spread)
    assert recorded["status"] == "completed"
    assert recorded["planned"] == 2
    assert sorted(engine["devices"] for engine in recorded["engines"]) == [[0], [1]]
    steps = sorted((spread / "steps").glob("*/*.csv"))
    assert [path.parent.name for path in steps] == ["gw0", "gw1"]
    assert all(len(step_records.read(path)) for path in steps)
    rows = [{row["fullname"] for row in json.loads(path.read_text())["benchmarks"]} for path in rows_saved(suite.path)]
    assert len(rows) == 2
    assert rows[0] == rows[1]


def test_a_group_of_devices_that_are_not_the_runs_is_refused(suite):
    for groups, line in (
        ("0;0", "--device-groups=0;0: a device is in two groups"),
        ("0;77", "--device-groups=0;77: devices [[]77[]] are not among the run's*"),
        ("zero", "--device-groups=zero: expected groups of device ids*"),
    ):
        result = suite.inside("--seed=0", *SMALL, "-n2", f"--device-groups={groups}")
        result.stderr.fnmatch_lines([f"ERROR: {line}"])
