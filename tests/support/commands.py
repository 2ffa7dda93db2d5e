"""`context-research` commands, run in this process."""

from click.testing import CliRunner

from context_research.cli import main as cli


def run(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


def refused(result, told):
    """One line, exit code 2, nothing on stdout, no traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("ERROR: ")
    assert len(result.stderr.splitlines()) == 1
    assert told in result.stderr
