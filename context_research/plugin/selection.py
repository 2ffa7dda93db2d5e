"""Which experiment a pytest session runs: told by its paths before collection, or by a test's marker during it.

Imports the standard library and pytest alone, as long as there is no experiment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from context_research.errors import UsageProblem
from context_research.settings.experiments import SHIPPED, Experiment, below, config_file, name_in
from context_research.settings.options import from_environment

GROUP = "context_research"
"""The entry-point group of packages that extend us: each entry is a module with hooks of ours."""

TOLD = "context_research_experiment"
"""Under this key an xdist controller tells its workers the experiment."""
SHARE, RUN_ID, OUTPUTS = (f"context_research_{what}" for what in ("share", "run_id", "outputs"))
"""And under these a worker's settings, the run's id, the folder of outputs."""

_SELECTED = pytest.StashKey[Experiment]()
_SEEN = pytest.StashKey[dict[tuple[str, Path], Experiment | None]]()


def of_session(config: pytest.Config) -> Experiment | None:
    """The experiment that pytest's paths name: its folder is one of them, or below one, or holds one.

    Raises UsageProblem for more than one: a run, its settings and its engines belong to one experiment. Also where an
    xdist session names an experiment's YAML alone: devices are lent before anything is collected.
    """
    if (told := getattr(config, "workerinput", {}).get(TOLD)) is not None:
        name, folder, configs = told
        return Experiment(name, Path(folder), Path(configs))
    paths = list(_paths(config))
    distributed = config.getoption("dist", "no") != "no"
    # Otherwise a package's experiment is known by its test's marker: a search of all that is installed takes its time.
    if (distributed or config.option.pyargs) and any(_holds(package, paths) for package in _packages()):
        load_packages(config)
    found = {one.name: one for one in reversed(known(config)) if one.is_among(paths)}
    if len(found) > 1:
        raise UsageProblem(one_by_one(*found))
    if distributed and not found:
        return _of_given_config(config, paths)
    return next(iter(found.values()), None)


def _of_given_config(config: pytest.Config, paths: Sequence[Path]) -> Experiment | None:
    if (given := config.getoption("context_research_experiment_config")) is None:
        return None
    if len(paths) > 1 or paths[0] == config.rootpath.resolve():
        raise UsageProblem("with -n and --experiment-config, name the folder of the experiment's test too")
    (path,) = paths
    return Experiment(name_in(Path(given)) or path.stem, path if path.is_dir() else path.parent)


def by_marker(config: pytest.Config, mark: pytest.Mark, test: Path) -> tuple[str, Experiment | None]:
    """Name of the experiment that a marked test in the file `test` belongs to; None if no settings for it are there.

    Other projects may have a marker of that name, for something else. Raises UsageProblem.
    """
    name = str(mark.args[0]) if mark.args else test.parent.name
    seen = config.stash.setdefault(_SEEN, {})
    if (name, test) not in seen:
        seen[name, test] = _of_test(config, name, test)
    return name, seen[name, test]


def _of_test(config: pytest.Config, name: str, test: Path) -> Experiment | None:
    load_packages(config)
    if here := [one for one in known(config) if one.name == name and one.is_among([test.resolve()])]:
        return here[0]
    places = [config.rootpath / "configs" / "experiments", SHIPPED]
    if place := next((each for each in places if name_in(config_file(name, each, gpu=True)) == name), None):
        return Experiment(name, test.parent, place)
    return Experiment(name, test.parent) if _config_is_given(config) else None


def select(config: pytest.Config, experiment: Experiment) -> None:
    """Make it the session's."""
    config.stash[_SELECTED] = experiment


def check_same(config: pytest.Config, name: str) -> None:
    """Raises UsageProblem: the session's experiment has another name."""
    if (selected := config.stash[_SELECTED].name) != name:
        raise UsageProblem(one_by_one(selected, name))


def one_by_one(*names: str) -> str:
    """The refusal of several experiments in one session."""
    return f"one experiment a session: run {' and '.join(sorted(names))} one by one"


def _config_is_given(config: pytest.Config) -> bool:
    """True where an experiment's YAML is named: on the command line, in the environment or in the ini file."""
    flag = "--experiment-config"
    return bool(
        config.getoption("context_research_experiment_config")
        or flag in from_environment()
        or config.getini("context_research_experiment_config")
    )


def known(config: pytest.Config) -> list[Experiment]:
    """Every experiment that a plugin tells of, and those below benchmarks/ of the project or of where pytest runs."""
    told = config.hook.pytest_context_research_experiments(config=config)
    homes = dict.fromkeys(path.resolve() for path in (config.rootpath, config.invocation_params.dir))
    return [*(one for some in told for one in some or ()), *(one for home in homes for one in below(home))]


def load_packages(config: pytest.Config) -> None:
    """Register the modules of the entry-point group as plugins, once. Raises UsageProblem: one can't be imported."""
    try:
        config.pluginmanager.load_setuptools_entrypoints(GROUP)
    except Exception as error:  # whatever a package's import may raise
        raise UsageProblem(f"entry points {GROUP}: {type(error).__name__}: {error}") from error


def _paths(config: pytest.Config) -> Iterable[Path]:
    for argument in config.args:
        name = argument.partition("::")[0]
        path = config.invocation_params.dir / name
        if config.option.pyargs and not path.exists() and (module := _module(name)):
            path = module
        yield path.resolve()


def _packages() -> Iterable[str]:
    """Top-level packages that extend us."""
    return {entry.module.partition(".")[0] for entry in entry_points(group=GROUP)}


def _holds(package: str, paths: Iterable[Path]) -> bool:
    home = _module(package)
    return home is not None and any(path.is_relative_to(home) for path in paths)


def _module(name: str) -> Path | None:
    """Where a module is: its file, or a package's folder."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    return (file.parent if file.name == "__init__.py" else file).resolve()
