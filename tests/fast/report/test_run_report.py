import pytest

from context_research.errors import UsageProblem
from context_research.records.summary import SummaryRecord
from context_research.report import run
from context_research.report.run import render
from tests.support import made
from tests.support.artifacts import cells


def rendered(metadata=None, **summary):
    """The report of artifacts that their records accept."""
    return render(made.run_record(**(metadata or {})), SummaryRecord.model_validate(made.summary(**summary)))


def test_a_completed_run_shows_what_ran_where_and_how_fast():
    ttft = made.metric(count=51, mean=0.25, p50=0.2004, p90=123.4)
    text = rendered({"status": "completed", "engines": [made.engine()]}, cases=[made.case(metrics={"ttft": ttft})])
    assert text.startswith("# e0: aggregated (1 engine), tiny-qwen3, on ")
    assert "| status" in text
    assert ["status", "completed"] in cells(text, "CPU cores")
    assert cells(text, "## Cases") == [["p64-c1", "64", "1", "passed", "2 of 2", "0", "0", "0.0"]]
    assert cells(text, "### ttft (ms)") == [["p64-c1", "51", "250", "200", "123400", "–", "–"]]
    assert cells(text, "## Validity") == [["p64-c1", "complete", "pass", "2 of 2 requests"]]
    assert cells(text, "## Engines") == [["aggregated", "aggregated", "0, 1", "0.50", "128", "2.5"]]
    assert "Measured on the vllm backend on cpu, tiny-qwen3 seeded:" in text
    assert "missing" not in text


def test_the_gpus_are_those_that_the_engines_had():
    gpus = [{"id": str(index), "name": name} for index, name in enumerate(["H200", "H200", "A100"])]
    machine = made.metadata()["environment_manifest"]["machine"] | {"gpus": gpus}
    values = {"device": "cuda", "engines": [made.engine(devices=[0]), made.engine(devices=[1])]}
    values["environment_manifest"] = made.metadata()["environment_manifest"] | {"machine": machine}
    assert run.about(made.run_record(**values)).endswith("2 × H200")
    values["engines"].append(made.engine(devices=[2]))
    assert run.about(made.run_record(**values)).endswith("2 × H200, A100")


def test_a_failed_case_is_shown_with_its_evidence():
    check = {"check": "complete", "status": "fail", "evidence": "1 of 2 requests; died"}
    text = rendered({"status": "failed"}, cases=[made.case(status="failed", validity=[check]), made.case("p64-c4")])
    assert [row[3:5] for row in cells(text, "## Cases")] == [["failed", "1 of 2"], ["passed", "2 of 2"]]
    assert cells(text, "## Validity")[0] == ["p64-c1", "complete", "FAIL", "1 of 2 requests; died"]


def test_a_run_that_was_resumed_says_after_which_case():
    again = {"stopped": "2026-01-01T00:00:00+00:00", "at": "2026-01-01T01:00:00+00:00"}
    text = rendered({"resumed": [again | {"after": "p64-c1"}, again | {"after": None}]}, cases=[made.case()])
    told = "after p64-c1 (2026-01-01T01:00:00+00:00), then after no case (2026-01-01T01:00:00+00:00)"
    assert f"**Resumed: the engines were started anew {told}.**" in text


def test_a_run_without_cases_says_so():
    text = rendered({"status": "interrupted", "reason": "KeyboardInterrupt"})
    assert "No case finished." in text
    assert "None started." in text
    assert "## Figures" not in text
    assert "## Validity" not in text
    assert "interrupted: KeyboardInterrupt" in text


@pytest.mark.parametrize(
    ("planned", "note"),
    [(3, "**2 of 3 cases are missing.**"), (1, None), (None, None)],
    ids=["missing", "all-there", "unknown"],
)
def test_missing_cases_are_noted(planned, note):
    text = rendered({"planned": planned}, cases=[made.case()])
    assert note in text if note else "missing" not in text


def test_missing_cases_are_noted_also_where_none_finished():
    assert "3 of 3 cases are missing" in rendered({"planned": 3})


def test_a_run_that_never_ended_says_so():
    assert "not finished" in rendered({"status": "running", "finished": None})


def test_pipes_do_not_break_tables():
    evidence = {"check": "complete", "status": "fail", "evidence": "a | b"}
    text = rendered(cases=[made.case(status="failed", validity=[evidence])])
    assert cells(text, "## Validity") == [["p64-c1", "complete", "FAIL", "a \\| b"]]


def test_line_breaks_do_not_break_tables():
    text = rendered({"status": "error", "reason": "RuntimeError: one\ntwo"})
    assert ["status", "error: RuntimeError: one two"] in cells(text, "CPU cores")


def test_null_percentiles_are_dashes_and_zeros_are_not():
    text = rendered(cases=[made.case(metrics={"itl": made.metric(count=8, mean=0.0, p50=0.0)})])
    assert cells(text, "### itl (ms)") == [["p64-c1", "8", "0", "0", "–", "–", "–"]]


def test_metrics_without_samples_are_left_out():
    metrics = {"ttft": made.metric(mean=0.25), "handoff": made.metric(count=0)}
    text = rendered(cases=[made.case(metrics=metrics), made.case("p64-c4", metrics={"handoff": made.metric(count=0)})])
    assert [row[0] for row in cells(text, "### ttft (ms)")] == ["p64-c1"]
    assert "### handoff" not in text


@pytest.mark.parametrize(
    ("unit", "mean", "title", "shown"),
    [
        pytest.param("s", 0.0123456, "ttft (ms)", "12.3", id="seconds"),
        pytest.param("B/s", 2.5e9, "ttft (GB/s)", "2.5", id="bandwidth"),
        pytest.param("1/s", 12.5, "ttft (1/s)", "12.5", id="rate"),
        pytest.param("J", 1234.5, "ttft (J)", "1234", id="a-plugins-own"),
    ],
)
def test_units_are_scaled(unit, mean, title, shown):
    text = rendered(cases=[made.case(metrics={"ttft": made.metric(unit, mean=mean)})])
    assert cells(text, f"### {title}")[0][2] == shown


@pytest.mark.parametrize("weights", ["seeded", "dummy", "hub"])
def test_weights_that_are_not_the_models_are_warned_of(weights):
    text = rendered({"model": {"name": "m", "weights": weights, "revision": None, "hash": None}})
    assert ("> The weights are" in text) == (weights != "hub")


def test_an_engine_of_another_plugin_can_be_shown():
    engine = {"name": "mine", "role": "aggregated", "devices": [0], "vllm_config": {}}
    assert cells(rendered({"engines": [engine]}), "## Engines")[0][:3] == ["mine", "aggregated", "0"]


def test_a_report_is_written_beside_the_runs(tmp_path):
    files = made.on_disk(tmp_path, cases=[made.case()])
    path = run.write(files)
    assert path == tmp_path / "reports" / "r1.md"
    assert "p64-c1" in path.read_text()


def test_no_token_gets_into_a_report(tmp_path, monkeypatch):
    token = "hf_abcdefgh12345678"
    check = {"check": "complete", "status": "fail", "evidence": f"401 for {token}"}
    files = made.on_disk(tmp_path, cases=[made.case(status="failed", validity=[check])], reason=token)
    monkeypatch.setenv("HF_TOKEN", token)
    text = run.write(files).read_text()
    assert token not in text
    assert text.count("<HF_TOKEN>") == 2


@pytest.mark.parametrize("which", ["metadata", "summary"])
def test_a_corrupt_artifact_is_named_and_leaves_no_report(tmp_path, which):
    files = made.on_disk(tmp_path)
    path = files.metadata if which == "metadata" else files.summary("e0")
    path.write_text("{")
    with pytest.raises(UsageProblem, match=f"cannot read {path}: corrupt"):
        run.write(files)
    assert not files.report.exists()


@pytest.mark.parametrize(
    ("status", "allowed", "told"),
    [
        ("invalid", False, "**This run does not count: cache failed.**"),
        ("error", False, "**This run does not count: cache failed.**"),
        ("completed", True, "**cache failed and was allowed to"),
    ],
)
def test_what_a_failed_check_means_is_said_before_any_figure(status, allowed, told):
    check = {"check": "cache", "status": "fail", "evidence": "warm"} | ({"allowed": True} if allowed else {})
    text = rendered({"status": status}, cases=[made.case(validity=[check])])
    assert told in text.partition("## Cases")[0]


def of_classes(**figures):
    """A case whose load had classes; latencies of an overloaded one are withheld."""
    return made.case(metrics={name.replace("__", "."): figure for name, figure in figures.items()})


def test_a_class_has_a_row_of_its_own_below_its_cases():
    figure = made.metric(mean=0.1)
    cases = [of_classes(ttft=figure, chat__ttft=made.metric(mean=0.05)), made.case("p64-c4", metrics={"ttft": figure})]
    text = rendered(cases=cases)
    assert cells(text, "### ttft (ms)") == [
        ["p64-c1", "all", "2", "100", "–", "–", "–", "–"],
        ["p64-c1", "chat", "2", "50", "–", "–", "–", "–"],
        ["p64-c4", "all", "2", "100", "–", "–", "–", "–"],
    ]
    assert "### chat.ttft" not in text


def test_shares_are_percents():
    text = rendered(cases=[made.case(metrics={"attainment": made.metric("share", mean=0.935)})])
    assert cells(text, "### attainment (%)")[0][2] == "93.5"


def test_an_overloaded_case_says_so_first_and_in_its_rows_and_keeps_its_rates():
    withheld, rate = made.metric(count=0, missing="overloaded: the backlog grew"), made.metric("1/s", 2, 3.5)
    case = of_classes(ttft=withheld, chat__ttft=withheld, request_rate=rate)
    case |= {"overload": {"overloaded": True, "slope": 0.8, "p": [0.0]}}
    case |= {"arrivals": {"due": {"chat": 2}, "rate": 2.0, "cv": 1.0}}
    part = dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), 1.0)
    case |= {"waterfall": {"prefill": part | {"unit": "s", "count": 2}}}
    text = rendered(cases=[case])
    assert "> **OVERLOADED: p64-c1 (backlog grew by 0.8 requests/s).**" in text.partition("## Cases")[0]
    assert [row[2:4] for row in cells(text, "### ttft (ms)")] == [["overloaded", "–"]] * 2
    assert text.count("**p64-c1** has none: overloaded: the backlog grew") == 1
    assert cells(text, "### request_rate (1/s)")[0][:3] == ["p64-c1", "2", "3.5"]
    assert "### where ttft goes" not in text


def test_the_load_is_described_in_the_head():
    told = "closed loop, 1, 4 in flight, 17 requests measured in a repeat; prompts of 256, 1024 tokens, output 16"
    assert ["load", told] in cells(rendered(), "CPU cores")
