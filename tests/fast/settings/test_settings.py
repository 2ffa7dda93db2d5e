import re

import pytest
from pydantic import ValidationError

from context_research.errors import UsageProblem
from context_research.settings import options, sources
from context_research.settings import schema as settings_module
from context_research.settings.schema import CONFIGS
from context_research.settings.sources import Layer, parse_options

MINIMAL = """\
experiment: e0
model: {name: tiny-qwen3, weights: seeded}
workload: {prompt_lengths: [64], concurrency: [1], requests: 17}
"""


@pytest.fixture
def yaml(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def resolve(path=None, *, ini=(), environment=(), cli=(), experiment="e0", device="cpu"):
    """As the plugin does it: each source's texts by flag."""
    cli = dict(cli) | ({"--experiment-config": str(path)} if path else {})
    layers = [
        parse_options("ini", dict(ini)),
        parse_options("environment", options.from_environment(dict(environment))),
        parse_options("command line", cli),
    ]
    return sources.resolve(experiment, layers, device, "why")


def problem(*arguments, **keywords):
    """The one line that a user gets."""
    with pytest.raises(UsageProblem) as caught:
        resolve(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


INI, ENVIRONMENT, CLI = {"--requests": "3"}, {"CONTEXT_RESEARCH_REQUESTS": "4"}, {"--requests": "5"}


@pytest.mark.parametrize(
    ("ini", "environment", "cli", "requests", "source"),
    [
        pytest.param({}, {}, {}, 17, "mine.yaml", id="yaml"),
        pytest.param(INI, {}, {}, 3, "ini", id="ini-over-yaml"),
        pytest.param(INI, ENVIRONMENT, {}, 4, "environment", id="environment-over-ini"),
        pytest.param(INI, ENVIRONMENT, CLI, 5, "command line", id="cli-over-all"),
        pytest.param(INI, {}, CLI, 5, "command line", id="cli-over-ini"),
    ],
)
def test_the_strongest_source_wins_and_is_recorded(yaml, ini, environment, cli, requests, source):
    found = resolve(yaml(MINIMAL), ini=ini, environment=environment, cli=cli)
    assert found.settings.workload.requests == requests
    assert found.sources["workload.requests"].endswith(source)


def test_a_stronger_source_leaves_the_other_keys_alone(yaml):
    found = resolve(yaml(MINIMAL), cli={"--output-tokens": "9"})
    assert (found.settings.workload.output_tokens, found.settings.workload.prompt_lengths) == (9, (64,))
    assert found.sources["workload.prompt_lengths"].endswith("mine.yaml")


def test_defaults_have_no_source(yaml):
    found = resolve(yaml(MINIMAL))
    assert found.settings.workload.repeats == 3
    assert "workload.repeats" not in found.sources


def test_serving_from_a_weaker_file_gives_way_to_a_stronger_mode(yaml):
    own = yaml("mode: aggregated\nengines: [{name: mine, role: aggregated}]\n", "own.yaml")
    weaker = {"CONTEXT_RESEARCH_SERVING_CONFIG": str(own)}
    assert resolve(environment=weaker).settings.serving.engines[0].name == "mine"
    assert resolve(environment=weaker, cli={"--serving": "disaggregated"}).settings.serving.mode == "disaggregated"


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_every_option_is_readable_from_the_environment(option):
    assert options.from_environment({option.environment: "x", "OTHER": "y"}) == {option.flag: "x"}


def test_an_empty_variable_counts_as_not_given():
    assert options.from_environment({"CONTEXT_RESEARCH_SEED": ""}) == {}


@pytest.mark.parametrize("option", options.OPTIONS, ids=lambda option: option.name)
def test_every_option_sets_a_key_that_exists(option):
    section = settings_module.Settings
    for part in option.key.split("."):
        if part == "axes":  # any key of the settings may be one
            section = settings_module.Settings
            continue
        assert part in section.model_fields
        section = section.model_fields[part].annotation


@pytest.mark.parametrize(
    ("device", "name", "model"),
    [("cpu", "e0_smoke.yaml", "tiny-qwen3"), ("cuda", "e0.yaml", "Qwen/Qwen3-8B")],
    ids=["cpu", "cuda"],
)
def test_the_machine_decides_the_shipped_config(device, name, model):
    found = resolve(device=device)
    assert found.settings.model.name == model
    assert found.reason == f"{name}, as the device is {device} (why)"
    assert found.sources["device"] == "why"


def test_a_named_device_beats_the_machine():
    found = resolve(cli={"--device": "cuda"}, device="cpu")
    assert (found.settings.device, found.settings.model.name) == ("cuda", "Qwen/Qwen3-8B")
    assert found.sources["device"] == "command line"


def test_device_auto_is_the_machines():
    assert resolve(cli={"--device": "auto"}, device="cpu").settings.device == "cpu"


def test_serving_defaults_to_aggregated():
    found = resolve()
    assert found.settings.serving.mode == "aggregated"
    assert found.sources["serving"] == "aggregated.yaml (default)"


def test_inline_serving_is_used_where_no_mode_is_given(yaml):
    inline = MINIMAL + "serving: {mode: aggregated, engines: [{name: inline, role: aggregated}]}\n"
    assert resolve(yaml(inline)).settings.serving.engines[0].name == "inline"
    found = resolve(yaml(inline), cli={"--serving": "disaggregated"})
    assert [engine.name for engine in found.settings.serving.engines] == ["prefill", "decode"]
    assert found.sources["serving"] == "disaggregated.yaml (command line)"


def test_engine_args_stay_whole(yaml):
    args = {"a.b": 1, "nested": {"deep": [1, 2]}, "empty": {}}
    found = resolve(yaml(MINIMAL + f"engine: {{args: {args}}}\n"))
    assert found.settings.engine.args == args
    assert "engine.args" in found.sources
    assert not [key for key in found.sources if key.startswith("engine.args.")]


@pytest.mark.parametrize("name", sorted(path.name for path in (CONFIGS / "experiments").glob("*.yaml")))
@pytest.mark.parametrize("mode", sources.serving_modes())
def test_shipped_configs_are_valid_together(name, mode):
    found = resolve(CONFIGS / "experiments" / name, cli={"--serving": mode}, experiment=name[:2])
    assert found.settings.serving.mode == mode.partition("-")[0]
    assert found.settings.seed is None, "a default seed would hide it"


def test_settings_are_frozen():
    found = resolve().settings
    with pytest.raises(ValidationError, match="frozen"):
        found.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        found.workload.requests = 1


@pytest.mark.parametrize(
    ("addition", "key", "allowed"),
    [
        pytest.param("sed: 0", "sed", "seed", id="top"),
        pytest.param("slo: {ttfd: 1}", "slo.ttfd", "tpot, ttft", id="section"),
        pytest.param("engine: {max_seqs: 8}", "engine.max_seqs", "max_num_seqs", id="engine"),
        pytest.param("enginee: {args: {}}", "enginee", "engine", id="group"),
    ],
)
def test_an_unknown_key_is_named_with_what_is_allowed(yaml, addition, key, allowed):
    path = yaml(MINIMAL + addition + "\n")
    told = problem(path)
    assert told.startswith(f"{path}: {key}: unknown key; allowed here: ")
    assert allowed in told


@pytest.mark.parametrize(
    ("text", "key", "allowed"),
    [
        pytest.param("mod: aggregated", "mod", "engines, handoff, mode", id="top"),
        pytest.param("engines: [{name: a, role: aggregated, gpus: [0]}]", "engines.0.gpus", "devices", id="engine"),
        pytest.param("handoff: {protocol: tcp}", "handoff.protocol", "backends, connector", id="handoff"),
    ],
)
def test_an_unknown_key_of_a_serving_file_is_named(yaml, text, key, allowed):
    given = {"mode": "mode: aggregated\n", "engines": "engines: [{name: a, role: aggregated}]\n"}
    rest = "".join(line for name, line in given.items() if not text.startswith(name + ":"))
    path = yaml(rest + text + "\n", "serving.yaml")
    told = problem(cli={"--serving-config": str(path)})
    assert told.startswith(f"{path}: {key}: unknown key; allowed here: ")
    assert allowed in told


@pytest.mark.parametrize(
    ("line", "key"),
    [
        pytest.param("output_tokens: many", "workload.output_tokens", id="word-for-number"),
        pytest.param("prompt_lengths: 0", "workload.prompt_lengths", id="zero-for-list"),
        pytest.param("prompt_lengths: 64", "workload.prompt_lengths", id="number-for-list"),
        pytest.param("prompt_lengths: [64, 0]", "workload.prompt_lengths.1", id="zero-in-list"),
        pytest.param("requests: -1", "workload.requests", id="negative"),
        pytest.param("requests: 0", "workload.requests", id="zero"),
        pytest.param("requests: 1.5", "workload.requests", id="fraction"),
        pytest.param("requests: null", "workload.requests", id="null"),
        pytest.param("warmup_requests: -1", "workload.warmup_requests", id="negative-where-zero-is-allowed"),
        pytest.param("request_timeout_s: 0", "workload.request_timeout_s", id="no-time"),
        pytest.param("temperature: -0.1", "workload.temperature", id="negative-temperature"),
    ],
)
def test_an_ill_typed_value_is_named_with_its_file(yaml, line, key):
    rest = {"prompt_lengths": "[64]", "concurrency": "[1]"}
    name, _, value = line.partition(": ")
    workload = "".join(f"  {k}: {v}\n" for k, v in (rest | {name: value}).items())
    path = yaml(f"experiment: e0\nmodel: {{name: x}}\nworkload:\n{workload}")
    told = problem(path)
    assert told.startswith(f"{path}: {key}: ")
    assert re.search(r" should .*, got ", told)


@pytest.mark.parametrize("value", ['"8"', "true", "8.0"], ids=["text", "bool", "float"])
def test_numbers_are_not_coerced(yaml, value):
    text = MINIMAL.replace("requests: 17", f"requests: {value}")
    assert "workload.requests" in problem(yaml(text))


@pytest.mark.parametrize("section", ["workload: 5", "workload:"], ids=["number", "null"])
def test_a_section_that_is_no_mapping_is_named_also_with_an_option_for_it(yaml, section):
    path = yaml(f"experiment: e0\nmodel: {{name: x}}\n{section}\n")
    told = problem(path, cli={"--requests": "3"})
    assert str(path) in told
    assert "workload" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("a: [1\nb: 2\n", "is no valid YAML", id="syntax"),
        pytest.param("a: !!python/object:os.system {}\n", "is no valid YAML", id="tag"),
        pytest.param("- 1\n- 2\n", "must hold keys and values", id="list"),
        pytest.param("", "must hold keys and values", id="empty"),
        pytest.param("just words\n", "must hold keys and values", id="text"),
        pytest.param(
            "day: 2024-13-45\n",
            "is no valid YAML",
            id="impossible-date",
        ),
    ],
)
def test_a_file_that_holds_no_settings_is_named(yaml, text, told):
    path = yaml(text)
    assert problem(path).startswith(f"{path} {told}")


def test_yaml_errors_say_where(yaml):
    assert "line 2" in problem(yaml("a: [1\nb: 2\n"))


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00x: 1")
    assert problem(path).startswith(f"cannot read {path}: ")


@pytest.mark.parametrize("flag", ["--experiment-config", "--serving-config"])
def test_a_missing_file_is_named(tmp_path, flag):
    path = tmp_path / "none.yaml"
    assert problem(cli={flag: str(path)}) == f"cannot read {path}: No such file or directory"


def test_a_folder_is_no_config(tmp_path):
    assert problem(tmp_path) == f"cannot read {tmp_path}: Is a directory"


def test_an_unknown_serving_mode_lists_the_known():
    told = problem(cli={"--serving": "split"})
    names = "aggregated, aggregated-2x, disaggregated, disaggregated-1p1d"
    assert told.startswith(f"unknown serving mode 'split': choose from {names}, or")


@pytest.mark.parametrize("value", ["here/mine", "disaggregated"], ids=["path", "mode"])
def test_serving_config_is_always_a_file(value):
    assert problem(cli={"--serving-config": value}).startswith(f"cannot read {value}: ")


def test_serving_and_serving_config_together_are_refused():
    told = problem(cli={"--serving": "aggregated", "--serving-config": "x.yaml"})
    assert told == "--serving and --serving-config are both given (command line): give one"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        pytest.param({"ini": {"--seed": "one"}}, "context_research_seed=one: ", id="ini"),
        pytest.param(
            {"environment": {"CONTEXT_RESEARCH_SEED": "one"}}, "CONTEXT_RESEARCH_SEED=one: ", id="environment"
        ),
        pytest.param({"cli": {"--seed": "one"}}, "--seed=one: ", id="cli"),
        pytest.param({"cli": {"--prompt-lengths": "1,,2"}}, "--prompt-lengths=1,,2: ", id="list"),
        pytest.param({"cli": {"--request-timeout": "1 h"}}, "--request-timeout=1 h: ", id="seconds"),
    ],
)
def test_an_unreadable_option_is_called_by_its_own_name(source, told):
    assert problem(**source).startswith(told)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        pytest.param({"ini": {"--requests": "-1"}}, "context_research_requests", id="ini"),
        pytest.param(
            {"environment": {"CONTEXT_RESEARCH_REQUESTS": "-1"}}, "CONTEXT_RESEARCH_REQUESTS", id="environment"
        ),
        pytest.param({"cli": {"--requests": "-1"}}, "--requests", id="cli"),
        pytest.param({"cli": {"--prompt-lengths": "64,0"}}, "--prompt-lengths", id="item-of-a-list"),
        pytest.param({"cli": {"--weights": "none"}}, "--weights", id="choice"),
    ],
)
def test_an_option_out_of_range_is_called_by_its_own_name(source, name):
    assert name in problem(**source)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        pytest.param({"ini": {"--requests": "-1"}}, "-1", id="ini"),
        pytest.param({"environment": {"CONTEXT_RESEARCH_WEIGHTS": "good"}}, "'good'", id="environment"),
        pytest.param({"cli": {"--device": "tpu"}}, "'tpu'", id="cli"),
    ],
)
def test_an_option_out_of_range_is_told_with_its_value_and_not_blamed_on_a_file(source, value):
    told = problem(**source)
    assert re.search(rf"Input should be .*, got {value}$", told)
    assert ".yaml" not in told


def test_a_timeout_is_finite():
    assert "finite" in problem(cli={"--request-timeout": "inf"})


def test_a_config_of_another_experiment_is_refused(yaml):
    path = yaml(MINIMAL.replace("experiment: e0", "experiment: e1"))
    assert problem(path) == f"{path} is for experiment 'e1', but e0 is to run"


def test_a_missing_key_is_named_with_its_option(yaml):
    path = yaml("experiment: e0\nmodel: {}\nworkload: {prompt_lengths: [1], concurrency: [1]}\n")
    assert problem(path) == f"{path}: model.name: missing; give it in the file or with --model-name"


def test_a_missing_experiment_is_not_blamed_on_an_option(yaml):
    assert problem(yaml(MINIMAL.replace("experiment: e0\n", ""))).endswith("experiment: missing; give it in the file")


@pytest.mark.parametrize(
    ("mode", "engines", "handoff", "told"),
    [
        pytest.param("aggregated", ["prefill", "decode"], False, "needs engines with the roles", id="wrong-roles"),
        pytest.param("aggregated", ["aggregated", "decode"], False, "needs engines with the roles", id="mixed"),
        pytest.param("disaggregated", ["prefill"], True, "needs engines with the roles", id="no-decode"),
        pytest.param("disaggregated", ["prefill", "prefill"], True, "needs engines with the roles", id="two-prefill"),
        pytest.param("disaggregated", ["prefill", "decode"], False, "a handoff belongs to", id="no-handoff"),
        pytest.param("aggregated", ["aggregated"], True, "a handoff belongs to", id="handoff-to-nobody"),
    ],
)
def test_a_serving_mode_needs_its_parts(yaml, mode, engines, handoff, told):
    listed = "".join(f"- {{name: e{index}, role: {role}}}\n" for index, role in enumerate(engines))
    path = yaml(f"mode: {mode}\nengines:\n{listed}" + ("handoff: {}\n" if handoff else ""), "serving.yaml")
    said = problem(cli={"--serving-config": str(path)})
    assert said.startswith(f"{path}: ")
    assert told in said


def test_engines_of_one_name_are_refused(yaml):
    path = yaml(
        "mode: disaggregated\nengines: [{name: a, role: prefill}, {name: a, role: decode}]\nhandoff: {}\n", "s.yaml"
    )
    assert "engine names must differ" in problem(cli={"--serving-config": str(path)})


def test_an_engines_name_is_a_file_name(yaml):
    path = yaml("mode: aggregated\nengines: [{name: ../x, role: aggregated}]\n", "s.yaml")
    assert f"{path}: engines.0.name: " in problem(cli={"--serving-config": str(path)})


def test_a_layer_can_set_what_no_file_names():
    found = sources.resolve("e0", [Layer("test", {"slo.ttft": 0.5})], "cpu", "why")
    assert found.settings.slo.ttft == 0.5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("workload:\n  requests: 3\n  requests: 4\n", "line 3: requests is given twice, first in line 2"),
        pytest.param("a: 1\nb: 2\n'a': 3\n", "line 3: a is given twice, first in line 1"),
        pytest.param("a: {b: 1, c: {d: 1, d: 2}}\n", "line 1: d is given twice, first in line 1"),
    ],
    ids=["group", "quoted", "flow"],
)
def test_a_key_that_is_given_twice_is_named_with_its_file_and_line(yaml, text, told):
    path = yaml(text)
    assert problem(path) == f"{path} is no valid YAML: {told}"


def test_a_key_given_with_dots_and_without_is_given_twice(yaml):
    path = yaml(MINIMAL + "model.name: other\n")
    assert problem(path) == f"{path}: model.name is given twice, once with its dots"


def test_a_merged_key_may_be_given_again(yaml):
    found = resolve(yaml(MINIMAL + "slo: {<<: &all {ttft: 1.0, tpot: 1.0}, tpot: 0.5}\n")).settings.slo
    assert (found.ttft, found.tpot) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("!!timestamp x", "x would be a timestamp, which no setting is: put it in quotes"),
        ("2024-01-01", "2024-01-01 would be a timestamp"),
        ("!!int x", "is no valid YAML"),
        ("!!bool x", "is no valid YAML"),
        ('!!float ""', "is no valid YAML"),
        ("&a [*a]", "this holds an alias of itself"),
        ("[" * 2000, "nested too deeply"),
        (".nan", "nan is no number"),
        ("{a: -.inf}", "-inf is no number"),
        (r'"\ud800"', "holds a character that no file can"),
        (r'"\0"', "holds a character that no file can"),
        ("{a: 1, a: 2}", "a is given twice"),
    ],
    ids=["timestamp", "date", "int", "bool", "float", "cycle", "depth", "nan", "inf", "surrogate", "nul", "twice"],
)
def test_a_value_of_set_that_is_no_plain_data_is_one_line(value, told):
    with pytest.raises(UsageProblem) as caught:
        sources.parse_set("command line", [f"engine.args.x={value}"])
    assert str(caught.value).startswith("--set engine.args.x=")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_set_into_a_list_says_that_it_is_one():
    layers = [sources.parse_set("command line", ["serving.engines.0.name=x"])]
    with pytest.raises(UsageProblem) as caught:
        sources.resolve("e0", layers, "cpu", "why")
    told = "aggregated.yaml (default): serving.engines: is a list, to be given whole (command line: serving.engines.0"
    assert str(caught.value).startswith(told)


def test_a_mistyped_variable_is_refused_with_the_nearest_name():
    with pytest.raises(UsageProblem, match=r"^CONTEXT_RESEARCH_SEDE is no variable of ours, the nearest is .*_SEED "):
        options.from_environment({"CONTEXT_RESEARCH_SEDE": "1", "CONTEXT_RESEARCH_SEED": "0"})


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("context_research", r"\"(CONTEXT_RESEARCH_[A-Z_]*[A-Z])\""),
        ("scripts", r"\$\{(CONTEXT_RESEARCH_[A-Z_]+)"),
        ("tests", r"environ\S*[\[(]\"(CONTEXT_RESEARCH_[A-Z_]+)"),
    ],
)
def test_every_variable_that_we_read_is_known(folder, pattern):
    """A script's or a test's own would be refused as a mistyped one."""
    files = (path for path in (CONFIGS.parent / folder).rglob("*") if path.suffix in (".py", ".sh"))
    read = {name for path in files for name in re.findall(pattern, path.read_text())}
    assert read
    options.from_environment(dict.fromkeys(read, ""))


@pytest.mark.parametrize("name", ["auto", "half", "float16", "bfloat16", "float", "float32"])
def test_a_dtype_is_one_of_vllms(name):
    assert resolve(cli={"--dtype": name}).settings.model.dtype == name


def test_a_dtype_that_vllm_has_not_is_refused_before_anything_starts():
    told = problem(cli={"--dtype": "bf16"})
    assert told.startswith("--dtype: Input should be 'auto', 'half', 'float16', 'bfloat16', 'float' or 'float32', got")


def test_a_typed_path_starts_here_and_one_in_a_file_at_the_project(tmp_path, monkeypatch):
    project, here = tmp_path / "project", tmp_path / "project" / "below"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    (project / "machine.yaml").touch()
    (project / "mine.yaml").write_text(MINIMAL + "device_profile: machine.yaml\noutputs: kept\n")

    def found(*layers):
        config = Layer("test", {"experiment": str(project / "mine.yaml")})
        return sources.resolve("e0", [config, *layers], "cpu", "why", root=project).settings

    assert found().device_profile == str(project / "machine.yaml")
    assert str(found().outputs) == "kept", "joined to the project's root where it is used"
    assert found(parse_options("environment", {"--outputs": "kept"})).outputs == here / "kept"
    assert found(sources.parse_set("command line", ["outputs=kept"])).outputs == here / "kept"
    ini = parse_options("ini", {"--outputs": "kept", "--device-profile": "machine.yaml"}, project)
    assert (found(ini).outputs, found(ini).device_profile) == (project / "kept", str(project / "machine.yaml"))


@pytest.mark.parametrize("source", ["environment", "ini", "yaml", "set"])
def test_a_tilde_is_the_home_folder_whoever_says_it(yaml, tmp_path, monkeypatch, source):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    layers = {
        "environment": [parse_options("environment", {"--outputs": "~/x"})],
        "ini": [parse_options("ini", {"--outputs": "~/x"}, tmp_path)],
        "set": [sources.parse_set("command line", ["outputs=~/x"])],
    }
    path = yaml(MINIMAL + ("outputs: ~/x\n" if source == "yaml" else ""))
    given = [Layer("test", {"experiment": str(path)}), *layers.get(source, [])]
    assert sources.resolve("e0", given, "cpu", "why").settings.outputs == tmp_path / "home" / "x"


def test_a_home_that_nobody_has_is_one_line():
    assert problem(cli={"--outputs": "~nobody-of-this-name/x"}).startswith("--outputs=~nobody-of-this-name/x: ")


@pytest.mark.parametrize(
    ("given", "axes"),
    [
        ({}, {"workload.output_tokens": (4, 8), "slo.ttft": (1, 2)}),
        ({"--output-tokens": "16"}, {"slo.ttft": (1, 2)}),
    ],
)
def test_a_value_from_a_stronger_source_takes_an_axis_place(yaml, given, axes):
    found = resolve(yaml(MINIMAL + "axes: {workload.output_tokens: [4, 8], slo: {ttft: [1, 2]}}\n"), cli=given).settings
    assert found.axes == axes
    assert found.workload.output_tokens == (16 if given else 128)
