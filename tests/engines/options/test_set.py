"""--set KEY=VALUE: any setting by its name in the YAML files."""

import pytest

from tests.support.artifacts import metadata, requests
from tests.support.suite import SMALL


def tokens(suite):
    return {len(line["token_times"]) for line in requests(suite.run)}


def test_a_value_is_used_and_recorded_with_its_source(suite, aggregated):
    options = [option for option in SMALL if not option.startswith("--output-tokens")]
    suite.inside("--seed=0", *options, "--set=workload.output_tokens=3", lend=[aggregated]).assert_outcomes(passed=2)
    assert tokens(suite) == {3}
    assert metadata(suite.run)["settings"]["workload"]["output_tokens"] == 3
    assert metadata(suite.run)["settings_sources"]["workload.output_tokens"] == "command line"


def test_it_wins_over_the_flag_and_the_last_over_those_before(suite, aggregated):
    given = ("--set", "workload.output_tokens=2", "--output-tokens=5", "--set", "workload.output_tokens=3")
    suite.inside("--seed=0", *SMALL, *given, lend=[aggregated]).assert_outcomes(passed=2)
    assert tokens(suite) == {3}


def test_a_setting_without_a_flag_of_its_own_can_be_given(suite, aggregated):
    given = ("--set=slo.ttft=1.5", "--set=engine.args={seed: 7}")
    suite.inside("--seed=0", *SMALL, *given, lend=[aggregated]).assert_outcomes(passed=2)
    assert metadata(suite.run)["settings"]["slo"]["ttft"] == 1.5
    assert metadata(suite.run)["settings"]["engine"]["args"] == {"seed": 7}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("engine.blocksize=16", "command line: engine.blocksize: unknown key; allowed here: *block_size*"),
        ("engin.block_size=16", "command line: engin: unknown key; allowed here: *engine*"),
        ("block_size=16", "command line: block_size: unknown key; allowed here: *engine*"),
        ("engine.block_size", "--set engine.block_size: expected KEY=VALUE, such as *"),
        ("=16", "--set =16: expected KEY=VALUE, such as *"),
        ("engine.block_size=[", "--set engine.block_size=[[]: the value is no valid YAML: *"),
        ("engine.block_size=many", "command line: engine.block_size: *valid integer*got 'many'"),
        ("engine.block_size.x=1", "command line: engine.block_size: *"),
        ("engine..x=1", "--set engine..x=1: expected KEY=VALUE, such as *"),
        ("engine=16", "command line: engine: *"),
        ("model.name=2021-02-30", "--set model.name=2021-02-30: the value is no valid YAML: *"),
        ("serving=split", "--set serving=split: that is a file's name, give it with --serving-config"),
        ("experiment=7", "--set experiment=7: that is a file's name, give it with --experiment-config"),
    ],
)
def test_what_cannot_be_set_is_named_in_one_line(suite, given, line):
    result = suite.inside("--seed=0", *SMALL, "--set", given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    result.stderr.fnmatch_lines([f"ERROR: {line}"])
    assert not list(suite.path.rglob("run_metadata.json"))
