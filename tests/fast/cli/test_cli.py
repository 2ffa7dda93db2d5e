import json
import os
import runpy
import sys

import click
import pytest

from context_research.cli.main import main
from context_research.records.files import PLANNED, RunFiles
from context_research.settings.experiments import PACKAGE
from context_research.settings.schema import CONFIGS
from tests.support import made
from tests.support.artifacts import plain
from tests.support.commands import refused, run

pytestmark = pytest.mark.usefixtures("here")
SMOKE = str(CONFIGS / "experiments" / "e0_smoke.yaml")


def init(*arguments):
    return run("init-run", "--config-path", SMOKE, *arguments)


@pytest.mark.parametrize("asked", ["--help", "-h"])
@pytest.mark.parametrize("name", [None, *main.commands])
def test_help_says_what_every_option_does(name, asked):
    result = run(*([] if name is None else [name]), asked)
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    command = main if name is None else main.commands[name]
    for option in (each for each in command.params if isinstance(each, click.Option)):
        assert option.opts[0] in result.stdout
        assert option.help, f"{name} {option.opts[0]}"


def test_init_run_writes_only_metadata(here):
    result = init("--serving", "disaggregated", "--seed", 7)
    run_id = result.stdout.strip()
    assert (result.exit_code, result.stderr) == (0, "")
    assert [path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()] == [
        f"outputs/runs/{run_id}/run_metadata.json"
    ]
    metadata = plain(RunFiles(here / "outputs", run_id).metadata, "run_metadata")
    assert (metadata["status"], metadata["reason"], metadata["planned"]) == ("incomplete", PLANNED, None)
    assert (metadata["seed"], metadata["serving"]["mode"]) == (7, "disaggregated")
    assert metadata["settings_sources"]["seed"] == "command line"


def test_init_run_can_leave_the_seed_to_the_run(here):
    run_id = init().stdout.strip()
    assert plain(RunFiles(here / "outputs", run_id).metadata, "run_metadata")["seed"] is None


def test_init_run_takes_a_name_a_folder_and_the_environment(here, monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUTS", "from-environment")
    assert init("--run-id", "one").exit_code == init("--run-id", "two", "--outputs", "given").exit_code == 0
    assert RunFiles(here / "from-environment", "one").metadata.is_file()
    assert RunFiles(here / "given", "two").metadata.is_file()


def test_init_run_does_not_look_the_model_up(here, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", None)
    result = init("--model-name", "nobody/nothing", "--run-id", "one")
    assert result.exit_code == 0
    model = plain(RunFiles(here / "outputs", "one").metadata, "run_metadata")["model"]
    assert (model["name"], model["hash"]) == ("nobody/nothing", None)


def test_init_run_refuses_a_run_that_has_begun(here):
    files = made.on_disk(here / "outputs", "one", status="completed")
    before = files.metadata.read_bytes()
    refused(init("--run-id", "one"), "run one exists already in outputs: choose another --run-id")
    assert files.metadata.read_bytes() == before


def test_init_run_refuses_to_plan_a_run_twice(here):
    assert init("--run-id", "one", "--seed", 1).exit_code == 0
    refused(init("--run-id", "one", "--seed", 2), "run one exists already")
    assert plain(RunFiles(here / "outputs", "one").metadata, "run_metadata")["seed"] == 1


@pytest.mark.parametrize("run_id", ["a/b", "..", "latest"])
def test_init_run_refuses_an_id_that_is_no_folder(run_id):
    refused(init("--run-id", run_id), "can't be a folder's name")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(None, "cannot read mine.yaml: No such file or directory", id="missing"),
        pytest.param("a: [", "mine.yaml is no valid YAML", id="syntax"),
        pytest.param("- 1", "mine.yaml must hold keys and values", id="list"),
        pytest.param("experiment: e0\nmodle: {}\n", "mine.yaml: ", id="unknown-key"),
        pytest.param("model: {name: x}\n", "mine.yaml: experiment: ", id="no-experiment"),
        pytest.param(
            "experiment: e0\nmodel: {name: x}\nworkload: {prompt_lengths: [], concurrency: [1]}",
            "mine.yaml: workload: lengths come from prompt_lengths or from classes, and neither is given",
            id="empty-list",
        ),
    ],
)
def test_a_bad_config_is_one_line_and_nothing_is_written(here, text, told):
    if text is not None:
        (here / "mine.yaml").write_text(text)
    refused(run("init-run", "--config-path", "mine.yaml"), told)
    assert [path.name for path in here.iterdir()] == (["mine.yaml"] if text else [])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--serving", "split"], "unknown serving mode 'split'", id="serving"),
        pytest.param(["--seed", "one"], "--seed=one: ", id="seed-type"),
        pytest.param(["--seed", "-1"], "seed: Input should be greater than or equal to 0", id="seed-range"),
    ],
)
def test_a_bad_option_is_one_line_and_nothing_is_written(here, arguments, told):
    refused(init(*arguments), told)
    assert list(here.iterdir()) == []


def test_a_bad_variable_is_called_by_its_name(monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_REPEATS", "many")
    refused(init(), "CONTEXT_RESEARCH_REPEATS=many: ")


def test_outputs_that_cannot_be_written_are_told(here):
    (here / "file").write_text("in the way")
    refused(init("--outputs", "file/below"), "cannot write to the outputs folder file/below")


def test_report_shows_the_newest_completed_run(here):
    for age, (run_id, status) in enumerate({"a": "completed", "b": "failed"}.items()):
        os.utime(made.on_disk(here / "outputs", run_id, [made.case()], status=status).metadata, (age, age))
    result = run("report")
    assert (result.exit_code, result.stdout.strip()) == (0, "outputs/reports/a.md")
    assert "p64-c1" in (here / "outputs/reports/a.md").read_text()
    assert run("report", "b").stdout.strip() == "outputs/reports/b.md"


def test_report_looks_where_it_is_told(here, monkeypatch):
    made.on_disk(here / "given", "a", status="completed")
    assert run("report", "--outputs", "given").stdout.strip() == "given/reports/a.md"
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUTS", "given")
    assert run("report").stdout.strip() == "given/reports/a.md"


def test_report_looks_where_the_ini_file_says(here, monkeypatch):
    (here / "pytest.ini").write_text("[pytest]\ncontext_research_outputs = kept\n")
    (here / "below").mkdir()
    made.on_disk(here / "kept", status="completed")
    assert run("report", "r1").stdout.split() == ["kept/reports/r1.md"]
    monkeypatch.chdir(here / "below")
    assert run("report", "r1").stdout.split() == [str(here / "kept/reports/r1.md")]


def test_report_of_a_project_that_pytest_refuses_says_how_to_do_without(here):
    (here / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    told = "pytest refuses the project's configuration: unrecognized arguments: --nonsense (--outputs DIR does without)"
    refused(run("report"), told)
    made.on_disk(here / "kept", status="completed")
    assert run("report", "r1", "--outputs", here / "kept").exit_code == 0


def test_report_without_a_run():
    refused(run("report"), "no run in outputs: start one with ")


def test_report_of_an_unknown_run(here):
    made.on_disk(here / "outputs", "a", status="completed")
    refused(run("report", "b"), "no run 'b' in outputs; the newest is a")


def test_report_without_a_completed_run(here):
    made.on_disk(here / "outputs", "a", status="running")
    refused(run("report", "latest"), "none of the 1 runs in outputs completed")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(None, "No such file or directory", id="missing"),
        pytest.param("{", "corrupt, no valid JSON", id="no-json"),
        pytest.param(json.dumps(made.summary(schema_version=4)), "has schema version 4", id="version"),
        pytest.param(json.dumps(made.summary(cases=[{}])), "from another version: cases.0.name: ", id="case"),
    ],
)
@pytest.mark.parametrize("run_id", ["a", "latest"])
def test_report_of_a_corrupt_artifact(here, content, told, run_id):
    files = made.on_disk(here / "outputs", "a", status="completed")
    summary = files.summary("e0")
    summary.unlink() if content is None else summary.write_text(content)
    result = run("report", run_id)
    refused(result, told)
    assert "outputs/runs/a/e0_summary.json" in result.stderr
    assert not files.report.exists()


def test_report_of_a_planned_run_names_what_is_missing():
    init("--run-id", "one")
    refused(run("report", "one"), "cannot read outputs/runs/one/e0_summary.json: No such file or directory")


@pytest.mark.parametrize("file", ["__main__.py", "cli/__main__.py", "cli/main.py"])
def test_every_way_to_start_it_has_one_name(file, monkeypatch, capsys):
    """`python -m context_research`, `… .cli`, `… .main`; the console script is named in pyproject.toml."""
    monkeypatch.setattr(sys, "argv", [file, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(PACKAGE / file), run_name="__main__")
    assert capsys.readouterr().out.startswith("Usage: context-research ")
