"""No secret is written: by its name, and by its value wherever that stands."""

import json

import pytest

from context_research.records import redact, store
from context_research.records.files import RunFiles
from tests.support import made
from tests.support.artifacts import keep

SECRET = "s3same-0pen/+="


@pytest.fixture(autouse=True)
def nothing_seen(monkeypatch):
    monkeypatch.setattr(redact, "_seen", {})


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "UCX_AUTH",
        "NIXL_PASSWD",
        "VLLM_S3_CREDENTIAL",
        "VLLM_API_KEY",
        "S3_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PWD",
        "GITHUB_PAT_TOKEN",
        "MYAUTHTOKEN",
        "engine.args.hf_token",
        "apiKey",
        "password",
    ],
)
def test_a_name_of_a_secret_is_known(name):
    assert redact.is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "PWD",
        "output_tokens",
        "max_num_batched_tokens",
        "tokenizer",
        "TOKENIZERS_PARALLELISM",
        "key",
        "UCX_TLS",
        "authors",
    ],
)
def test_a_name_of_something_else_is_none(name):
    assert not redact.is_secret(name)


@pytest.mark.parametrize("variable", ["UCX_AUTH", "NIXL_PASSWD", "VLLM_S3_CREDENTIAL", "SOME_API_KEY"])
def test_what_a_secret_variable_holds_is_written_nowhere(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, SECRET)
    files = RunFiles(tmp_path, "r1")
    keep(files.metadata, "run_metadata", made.metadata(command=["pytest", f"--x={SECRET}"], reason=f"401: {SECRET}!"))
    store.replace(files.report, f"| command | `--x={SECRET}` |\n")
    for path in (files.metadata, files.report):
        assert SECRET not in path.read_text()
        assert f"<{variable}>" in path.read_text()


def test_what_a_secret_setting_holds_is_written_nowhere(tmp_path):
    """The run's record has it as a setting; what is written after that may have it anywhere."""
    files = RunFiles(tmp_path, "r1")
    changed = made.metadata(command=["pytest", f"--set=engine.args.hf_token={SECRET}"])
    changed["settings"] = {"engine": {"args": {"hf_token": SECRET}}}
    changed["settings_sources"] = {"engine.args.hf_token": "command line"}
    keep(files.metadata, "run_metadata", changed)
    store.replace(files.report, f"401 for {SECRET}\n")
    written = json.loads(files.metadata.read_text())
    assert SECRET not in files.metadata.read_text() + files.report.read_text()
    assert written["settings"] == {"engine": {"args": {"hf_token": "<hf_token>"}}}
    assert written["settings_sources"] == {"engine.args.hf_token": "command line"}


def test_a_command_line_is_cleaned_by_the_names_in_it(monkeypatch):
    text = "pytest --set engine.args.hf_token=abc --set=engine.max_num_batched_tokens=512 x_token=5"
    assert redact.text(text) == (
        "pytest --set engine.args.hf_token=<hf_token> --set=engine.max_num_batched_tokens=512 x_token=5"
    )


@pytest.mark.parametrize(
    ("value", "kept"),
    [(True, True), (None, None), ("", ""), (12345678, "<password>"), ("12345678", "<password>")],
    ids=["switch", "none", "empty", "number", "digits"],
)
def test_a_switch_is_no_secret_and_a_number_may_be(value, kept):
    assert redact.plain({"password": value}) == {"password": kept}


def test_figures_do_not_move_where_a_password_is_a_number(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "123456")
    data = {"mean": 0.123456, "count": 123456, "kv_bytes_per_token": 123456, "why": "123456 or 0.123456 or 91234567"}
    cleaned = {**data, "why": "<DB_PASSWORD> or 0.123456 or 91234567"}
    assert redact.plain(data) == cleaned
    assert json.loads(redact.json_lines(json.dumps(data) + "\n")) == cleaned
    assert redact.text("| 0.123456 |") == "| 0.123456 |"


def test_a_secret_is_found_as_json_escapes_it(monkeypatch):
    monkeypatch.setenv("X_SECRET", 'quo"te\\d é')
    line = json.dumps({"error": 'quo"te\\d é'}) + "\n"
    assert redact.json_lines(line) == '{"error": "<X_SECRET>"}\n'


def test_a_path_that_is_there_is_no_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path))
    assert redact.text(str(tmp_path)) == str(tmp_path)


def test_a_kept_log_is_cleaned_in_place(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    path = tmp_path / "decode.log"
    path.write_bytes(b"\xff token " + SECRET.encode() + b" and more\n")
    with path.open("ab") as engine:
        redact.log(path)
        engine.write(b"last\n")
    assert path.read_bytes() == b"\xff token <HF_TOKEN> and more\nlast\n"
