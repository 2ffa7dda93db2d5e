"""What tests/README.md says of the folders."""

import ast

import pytest

from tests.support.suite import ROOT

TESTS = ROOT / "tests"
OTHERS = {"late_nixl.py", "slow_nixl.py", "stalls.py", "scheduler_parity.py"}
"""Of tests/support: what engines or sessions are given, and a program."""
FILES = sorted(path for path in TESTS.rglob("*.py") if "support" not in path.parts)


def imported(path):
    """The modules of the tests that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "tests"):
            yield "." if node.level else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tests")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_file_imports_another(path):
    assert [name for name in imported(path) if not name.startswith("tests.support")] == []


def test_every_test_is_in_a_tier():
    tiers = {"fast", "engines", "slow", "gpu"}
    assert {path.relative_to(TESTS).parts[0] for path in FILES if path.name.startswith("test_")} == tiers


def test_the_table_names_every_module_that_there_is_to_use():
    text = (TESTS / "README.md").read_text()
    modules = {path.name for path in (TESTS / "support").glob("[a-z]*.py")}
    assert {name for name in modules if f"`{name}`" not in text} == OTHERS
