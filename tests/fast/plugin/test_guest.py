"""What other projects notice of the plugin once it is installed: nothing."""

import json
import signal

import pytest

OURS = {
    "context_research",
    "context_research.errors",
    "context_research.plugin",
    "context_research.plugin.fixture_names",
    "context_research.plugin.hookspecs",
    "context_research.plugin.options",
    "context_research.plugin.selection",
    "context_research.settings",
    "context_research.settings.experiments",
    "context_research.settings.options",
}
LISTS_MODULES = """
import json, sys
from pathlib import Path
def pytest_unconfigure():
    Path("modules.json").write_text(json.dumps(sorted(sys.modules)))
"""
OWN_OPTIONS = """
import pytest
def pytest_addoption(parser):
    group = parser.getgroup("own")
    for name in ("--device", "--seed", "--base-url", "--set", "--run-id"):
        group.addoption(name, default="none", help="its own")
@pytest.fixture
def device(request):
    return request.config.getoption("--device")
"""
USES_THEM = """
def test_it(request, device):
    assert device == "iPhone 11"
    assert request.config.getoption("--seed") == "x"
    assert request.config.getoption("context_research_device") == "cuda"
    assert request.config.getoption("context_research_set") == ["a=1"]
"""
GIVEN = ("--device=iPhone 11", "--seed", "x", "--cr-device=cuda", "--cr-set=a=1")


def test_a_session_without_an_experiment_imports_nothing_but_the_plugins_own(pytester):
    pytester.makeconftest(LISTS_MODULES)
    pytester.makepyfile("def test_it(): pass")
    assert pytester.runpytest_subprocess("--co").ret == 0
    modules = set(json.loads((pytester.path / "modules.json").read_text()))
    assert {name for name in modules if name.partition(".")[0] == "context_research"} == OURS
    assert not modules & {"numpy", "pydantic", "yaml", "jsonschema", "scipy", "matplotlib", "click", "filelock"}


@pytest.mark.parametrize("short", ["true", "false"])
@pytest.mark.parametrize("order", [["own", "context_research.plugin"], ["context_research.plugin", "own"]])
def test_a_plugin_with_options_of_our_names_keeps_them_whichever_is_loaded_first(pytester, order, short):
    pytester.makeini(f"[pytest]\ncontext_research_short_options = {short}\n")
    pytester.makepyfile(own=OWN_OPTIONS, test_it=USES_THEM)
    pytester.syspathinsert()
    plugins = [word for name in order for word in ("-p", name)]
    pytester.runpytest_inprocess(*plugins, *GIVEN).assert_outcomes(passed=1)


@pytest.mark.parametrize("short", ["true", "false"])
def test_a_conftest_with_options_of_our_names_keeps_them(pytester, short):
    pytester.makeini(f"[pytest]\ncontext_research_short_options = {short}\n")
    pytester.makeconftest(OWN_OPTIONS)
    pytester.makepyfile(USES_THEM)
    pytester.runpytest_inprocess(*GIVEN).assert_outcomes(passed=1)


def test_short_options_are_those_of_projects_that_ask_for_them(pytester, monkeypatch):
    pytester.makepyfile("def test_it(request): assert request.config.getoption('context_research_seed') == '3'")
    result = pytester.runpytest_inprocess("--seed=3")
    result.stderr.fnmatch_lines(["*unrecognized arguments: --seed=3"])
    monkeypatch.setenv("CONTEXT_RESEARCH_SHORT_OPTIONS", "1")
    pytester.runpytest_inprocess("--seed=3").assert_outcomes(passed=1)
    pytester.runpytest_inprocess("--cr-seed=3").assert_outcomes(passed=1)


FORKS = """
import os, signal, time
def test_fork():
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, b"up")  # a signal that comes before Python is up again would be lost
        time.sleep(30)
        os._exit(7)
    os.read(reads, 2)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
"""


def test_a_child_that_a_test_forks_ends_by_the_signal_it_gets(pytester):
    pytester.makepyfile(FORKS)
    before = signal.getsignal(signal.SIGTERM)
    pytester.runpytest_inprocess("-W", "ignore::DeprecationWarning").assert_outcomes(passed=1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_tables_of_other_benchmarks_are_scaled_by_pytest_benchmark(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # or pytest-benchmark would measure nothing
    pytester.makepyfile("def test_it(benchmark): benchmark.pedantic(lambda: 1, rounds=20, iterations=20)")
    result = pytester.runpytest_inprocess()
    result.stdout.re_match_lines([r".*Name \(time in [nu]s\).*"])


NAMES = ("settings", "engine", "seed", "serving", "workload")
A_FIXTURE_EACH = "import pytest\n" + "".join(
    f"@pytest.fixture\ndef {name}():\n    return 'own {name}'\n" for name in NAMES
)
WANTS_THEM = f"def test_own({', '.join(NAMES)}): assert [{', '.join(NAMES)}] == {[f'own {name}' for name in NAMES]}\n"


@pytest.mark.parametrize(
    "marker", ["", "import pytest\npytestmark = pytest.mark.experiment('e0')\n"], ids=["", "marked"]
)
@pytest.mark.parametrize("where", ["conftest", "plugin", "module"])
def test_fixtures_of_a_project_keep_their_names(plugin_imported, pytester, where, marker):
    """In tests of an experiment too, and whether a conftest, another plugin or the module itself has them."""
    if where == "plugin":
        pytester.makepyfile(own=A_FIXTURE_EACH)
        pytester.syspathinsert()
    if where == "conftest":
        pytester.makeconftest(A_FIXTURE_EACH)
    pytester.makepyfile(test_own=marker + (A_FIXTURE_EACH if where == "module" else "") + WANTS_THEM)
    plugins = ["-p", "own"] if where == "plugin" else []
    pytester.runpytest_inprocess(*plugins, "--cr-seed=0", "--cr-device=cpu").assert_outcomes(passed=1)


def test_an_experiments_tests_have_the_short_names(plugin_imported, pytester):
    pytester.makeconftest("""
        import pytest
        @pytest.fixture
        def doubled(seed): return 2 * seed
    """)
    pytester.makepyfile("""
        import pytest
        @pytest.mark.experiment("e0")
        def test_it(seed, settings, workload, doubled):
            assert (seed, settings.experiment, workload.output_tokens, doubled) == (3, "e0", 5, 6)
        def test_other(request):
            with pytest.raises(pytest.FixtureLookupError):
                request.getfixturevalue("seed_of_nobody")
    """)
    pytester.runpytest_inprocess("--cr-seed=3", "--cr-device=cpu", "--cr-output-tokens=5").assert_outcomes(passed=2)


def test_a_marker_of_that_name_may_be_another_projects(pytester):
    pytester.makepyfile("""
        import pytest
        @pytest.mark.experiment("their own")
        def test_it(): pass
        @pytest.mark.experiment
        class TestMore:
            def test_it(self): pass
    """)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(passed=2)
    assert "context-research:" not in result.stdout.str()


def test_a_marked_test_without_settings_says_what_is_missing(pytester):
    pytester.makepyfile("""
        import pytest
        @pytest.mark.experiment("e77")
        def test_it(serving_run): pass
    """)
    result = pytester.runpytest_inprocess()
    result.stdout.fnmatch_lines(["experiment e77 has no settings: name a YAML file (--cr-experiment-config FILE)*"])


OWN_YAML = """
experiment: mine
model: {name: tiny-qwen3, weights: seeded, dtype: float32, max_model_len: 8192}
engine: {kv_cache_memory_bytes: 100000000}
workload: {prompt_lengths: [64], concurrency: [1]}
"""
OWN_TEST = """
import pytest
@pytest.mark.experiment("mine")
def test_mine(serving_run, case): pass
"""


@pytest.fixture
def host(plugin_imported, pytester):
    """A project that has, among its tests, an experiment in a folder of its own and a YAML for it."""
    for folder in ("perf", "ci"):
        pytester.mkdir(folder)
    pytester.path.joinpath("perf", "test_mine.py").write_text(OWN_TEST)
    pytester.path.joinpath("perf", "mine.yaml").write_text(OWN_YAML)
    pytester.makepyfile(test_other="def test_other(): pass")
    return pytester


EXPLICIT = ("--co", "-q", "--cr-experiment-config=perf/mine.yaml", "--cr-seed=0", "--cr-device=cpu")


def collected(result):
    return [line.rpartition("::")[2] for line in result.outlines if "::" in line]


def test_an_experiment_among_a_projects_tests(host):
    assert collected(host.runpytest_inprocess(".", *EXPLICIT)) == ["test_mine[p64-c1]", "test_other"]


def test_a_child_forked_beside_an_experiment_ends_by_its_signal_too(host):
    host.makepyfile(test_fork=FORKS)
    result = host.runpytest_inprocess(".", "-W", "ignore::DeprecationWarning", *EXPLICIT[2:], "--cr-run-id=mine")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["run     outputs/runs/mine"])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_experiment_with_a_config_file_of_pytest_elsewhere(host):
    (host.path / "ci" / "pytest.ini").write_text("[pytest]\n")
    result = host.runpytest_inprocess("-c", "ci/pytest.ini", "perf", *EXPLICIT)
    assert collected(result) == ["test_mine[p64-c1]"]


def test_an_experiment_in_a_project_reached_by_a_symlink(host, monkeypatch, tmp_path_factory):
    link = tmp_path_factory.mktemp("elsewhere") / "link"
    link.symlink_to(host.path)
    monkeypatch.chdir(link)
    for rootdir in (link, host.path):
        result = host.runpytest_inprocess(f"--rootdir={rootdir}", "perf", *EXPLICIT)
        assert collected(result) == ["test_mine[p64-c1]"]


def test_what_is_wrong_with_it_is_told_in_one_line(host):
    result = host.runpytest_inprocess(".", *EXPLICIT, "--cr-output-tokens=none")
    result.stderr.fnmatch_lines(["ERROR: --cr-output-tokens=none: expected a value like N*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()


def test_paths_in_an_ini_file_start_at_that_file(host, monkeypatch):
    host.makeini("[pytest]\ncontext_research_experiment_config = perf/mine.yaml\ncontext_research_device = cpu\n")
    monkeypatch.chdir(host.path / "perf")
    assert collected(host.runpytest_inprocess("--co", "-q", ".")) == ["test_mine[p64-c1]"]


def test_with_workers_the_experiment_must_be_named(host):
    result = host.runpytest_inprocess(".", "-n1", *EXPLICIT[2:])
    result.stderr.fnmatch_lines(
        ["ERROR: with -n and --cr-experiment-config, name the folder of the experiment's test*"]
    )


def test_an_option_that_would_do_nothing_is_refused(pytester):
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess("--cr-verdict-against=latest")
    result.stderr.fnmatch_lines(["ERROR: --cr-verdict-against: no experiment is selected, name one: *"])
