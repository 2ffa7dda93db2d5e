"""What commands outside pytest know of a project: the same as pytest does there."""

from pathlib import Path

import pytest

from context_research.errors import UsageProblem
from context_research.plugin import project

YAML = """
experiment: mine
model: {name: tiny-qwen3, weights: seeded, dtype: float32, max_model_len: 8192}
engine: {kv_cache_memory_bytes: 100000000}
workload: {prompt_lengths: [64], concurrency: [1]}
"""


@pytest.fixture
def repository(plugin_imported, here):
    folder = here / "benchmarks" / "mine"
    configs = here / "configs" / "experiments"
    for path in (folder, configs):
        path.mkdir(parents=True)
    (folder / "test_mine.py").touch()
    (configs / "mine.yaml").write_text(YAML)
    return here


def values(asked):
    return {key: value for layer in asked.layers for key, value in layer.values.items()}


@pytest.mark.parametrize("name", ["mine", "benchmarks/mine", "benchmarks/mine/"])
def test_an_experiment_is_named_by_its_name_or_folder(repository, name):
    experiment, _ = project.ask(name, [])
    assert experiment.folder == Path("benchmarks/mine").resolve()
    assert experiment.configs == Path("configs/experiments").resolve()


def test_ini_keys_added_options_and_the_environment_are_read_as_pytest_does(repository, monkeypatch):
    (repository / "ci").mkdir()
    (repository / "ci" / "pytest.ini").write_text(
        "[pytest]\naddopts = --cr-repeats=4 --cr-set slo.ttft=0.5\n"
        "context_research_requests = 5\ncontext_research_output_tokens = 6\n"
    )
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUT_TOKENS", "7")
    _, asked = project.ask("mine", ["-c", "ci/pytest.ini", "--concurrency=3", "-k", "c3"])
    assert values(asked) == {
        "workload.requests": 5,
        "workload.output_tokens": 7,
        "workload.repeats": 4,
        "workload.concurrency": [3],
        "slo.ttft": 0.5,
    }


def test_what_a_conftest_tells_of_is_known(repository):
    (repository / "elsewhere").mkdir()
    (repository / "conftest.py").write_text(
        "from pathlib import Path\nfrom context_research.settings.experiments import Experiment\n"
        "def pytest_context_research_experiments():\n"
        "    return [Experiment('told', Path(__file__).parent / 'elsewhere', Path(__file__).parent)]\n"
    )
    (repository / "elsewhere" / "pytest.ini").write_text("[pytest]\ncontext_research_requests = 9\n")
    experiment, asked = project.ask("told", [])
    assert (experiment.folder, experiment.configs) == (repository / "elsewhere", repository)
    assert values(asked) == {"workload.requests": 9}  # the file that pytest finds for that folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none", []), "no experiment 'none' here (there are: mine): run this in its repository"),
        (
            ("mine", ["--no-such-option"]),
            "pytest refuses the options after --: unrecognized arguments: --no-such-option",
        ),
        (("mine", ["-c", "no.ini"]), "no.ini"),
        (("mine", ["--requests=few"]), "--requests=few: expected a value like N"),
    ],
    ids=["experiment", "option", "config", "value"],
)
def test_what_is_wrong_is_told_in_one_line(repository, arguments, told):
    with pytest.raises(UsageProblem) as problem:
        project.ask(*arguments)
    assert told in str(problem.value)
    assert "\n" not in str(problem.value)


def test_outputs_are_where_pytest_puts_them(repository, monkeypatch):
    assert project.here().outputs == Path("outputs")
    (repository / "pytest.ini").write_text("[pytest]\ncontext_research_outputs = kept\n")
    assert project.here().outputs == Path("kept")
    monkeypatch.chdir(repository / "configs")
    assert project.here().outputs == repository / "kept"
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUTS", "mine")
    assert project.here().outputs == Path("mine"), "what is typed starts here"


def test_a_mistyped_variable_is_told(repository, monkeypatch):
    monkeypatch.setenv("CONTEXT_RESEARCH_OUTPUT", "mine")
    with pytest.raises(UsageProblem, match="the nearest is CONTEXT_RESEARCH_OUTPUTS "):
        project.here()
