"""What pytest would make of a command line here, asked without running it: ini keys, added options, experiments."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from context_research.errors import UsageProblem
from context_research.plugin import selection
from context_research.plugin.session import given_layers
from context_research.settings.experiments import Experiment
from context_research.settings.options import everywhere
from context_research.settings.schema import DEFAULT_OUTPUTS
from context_research.settings.sources import Layer


@dataclass(frozen=True, slots=True)
class Project:
    """Settings that a pytest command line gives here (weakest first), and the experiments that there are."""

    root: Path
    layers: list[Layer]
    experiments: list[Experiment]

    @property
    def outputs(self) -> Path:
        """Folder for runs and reports, where no YAML names one; a relative path if it is below this folder."""
        given = [layer.values["outputs"] for layer in self.layers if "outputs" in layer.values]
        path, here = self.root / (given[-1] if given else DEFAULT_OUTPUTS), Path.cwd()
        return path.relative_to(here) if path.is_relative_to(here) else path


class _Ask:
    """A pytest plugin that takes what it wants to know once the command line is read, and ends pytest there."""

    def __init__(self) -> None:
        self.project: Project | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_cmdline_main(self, config: pytest.Config) -> int:
        selection.load_packages(config)
        self.project = Project(config.rootpath, given_layers(config), selection.known(config))
        return 0


def here() -> Project:
    """What pytest makes of an empty command line here. Raises UsageProblem: its configuration is broken."""
    return _ask([], [])


def ask(experiment: str, options: Sequence[str]) -> tuple[Experiment, Project]:
    """The experiment of that name, and pytest's own reading of its configuration and of `options` (ours, and others).

    Raises UsageProblem: no such experiment, options that pytest refuses.
    """
    name = experiment.rstrip("/").removeprefix("benchmarks/")
    usual = Path("benchmarks", name)
    # With the folder pytest loads the conftests that apply there, and not those of all tests.
    here = _ask([str(usual)] if usual.is_dir() else [], options)
    one = next((one for one in here.experiments if one.name == name), None)
    if one is None:
        known = ", ".join(dict.fromkeys(one.name for one in here.experiments)) or "none"
        raise UsageProblem(f"no experiment {name!r} here (there are: {known}): run this in its repository")
    if one.folder.resolve() != usual.resolve():  # a package's: pytest may find another configuration file for it
        here = _ask([str(one.folder)], options)
    return one, here


def _ask(paths: Sequence[str], options: Sequence[str]) -> Project:
    asked, told = _Ask(), io.StringIO()
    with contextlib.redirect_stderr(told):
        pytest.main([*paths, *everywhere(options)], plugins=[asked])
    if asked.project is None:
        lines = [line.partition("error: ")[2] or line for line in told.getvalue().splitlines() if "rror: " in line]
        what = "options after --" if options else "project's configuration"
        raise UsageProblem(f"pytest refuses the {what}: {lines[0] if lines else told.getvalue().strip()}")
    return asked.project
