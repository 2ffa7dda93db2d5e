"""A run whose environment and settings hold secrets: they are in no file that it leaves, logs and rows among them."""

import pytest

from tests.support.artifacts import metadata
from tests.support.suite import SMALL

SETTING, VARIABLE = "sesame-of-a-setting", "sesame-of-a-variable"


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_no_file_of_a_run_holds_a_secret(suite, monkeypatch, mode):
    for name in ("UCX_AUTH", "NIXL_PASSWD", "VLLM_S3_CREDENTIAL", "DB_PASSWORD"):
        monkeypatch.setenv(name, f"{VARIABLE}-{name}")
    (suite.path / "benchmarks" / "e0" / "conftest.py").write_text(
        "import logging, os, pytest\n"
        "@pytest.fixture(autouse=True)\n"
        "def tells(serving):\n"
        f"    logging.getLogger('vllm').warning('as vLLM might: {SETTING}')\n"
        "    print('a password', os.environ['DB_PASSWORD'])\n"
        "    yield\n"
        "def pytest_context_research_report_sections():\n"
        "    from context_research.report.sections import Section\n"
        f"    return [Section('of a plugin', '{SETTING}')]\n"
    )
    result = suite.outside(
        "--seed=0", *SMALL, f"--serving={mode}", f"--set=engine.args.hf_token={SETTING}", "--junitxml=junit.xml", "-rA",
        "-o", "junit_logging=all",
    )  # fmt: skip
    assert result.ret == 0
    kept = [path for path in suite.path.rglob("*") if path.is_file() and path.parent.name not in ("e0", "__pycache__")]
    assert {path.suffix for path in kept} >= {".json", ".jsonl", ".md", ".log", ".xml"}
    assert [str(path) for path in kept if b"sesame" in path.read_bytes()] == []
    assert metadata(suite.run)["settings"]["engine"]["args"] == {"hf_token": "<hf_token>"}
    assert list((suite.path / "outputs").rglob("references/*.json"))
    assert list((suite.path / ".benchmarks").rglob("*.json"))
