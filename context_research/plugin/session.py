"""What one pytest session knows before anything runs: its options, settings, model, and where its files go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from context_research.backends.base import Backend
from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.errors import UsageProblem
from context_research.measure import metrics
from context_research.measure.checks import registry
from context_research.measure.checks.builtin import BUILT_IN
from context_research.measure.checks.evidence import Standing
from context_research.measure.checks.registry import Check
from context_research.measure.metrics import Metric
from context_research.models import hub
from context_research.models.model import Model
from context_research.plugin.selection import OUTPUTS, RUN_ID, SHARE, TOLD
from context_research.records import store
from context_research.records.files import RunFiles, check_run_id, is_planned, new_run_id
from context_research.records.run import RunRecord
from context_research.serving import preflight
from context_research.settings import sources
from context_research.settings.experiments import Experiment
from context_research.settings.options import OPTIONS, from_environment
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer, Resolved
from context_research.workload import arrivals
from context_research.workload.arrivals import ArrivalProcess
from context_research.workload.case import Case, at, cases
from context_research.workload.load import described

if TYPE_CHECKING:
    from context_research.plugin.resume import Resumption

Added = TypeVar("Added")


class Session:
    """One per pytest process; an xdist worker's agrees with its controller's."""

    def __init__(self, config: pytest.Config, experiment: Experiment, late: bool = False) -> None:
        self.config = config
        self.experiment = experiment
        self.late = late
        """Whether it took a test's marker to know the experiment: not before collection."""
        self.problem: str | None = None
        """Why nothing can run, found during collection and to be told after it."""
        self.worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.collected = (0, "")
        """How many experiment items there were before selection, and the marker they got."""
        self.selected: list[pytest.Item] = []
        self.cannot_start: str | None = None
        self.notes: list[str] = []
        """What `check` has to tell before the run starts: warnings, what is taken of a trace."""
        """Why no engine could be had, where that ended the session."""
        self.standing = Standing()
        self.resumption: Resumption | None = None
        """Of the run that goes on here, where one does."""

    def owns(self, node: pytest.Item) -> bool:
        """True for a test that is marked as this experiment's."""
        mark = node.get_closest_marker("experiment")
        return mark is not None and (not mark.args or mark.args[0] == self.experiment.name)

    def is_ours(self, nodeid: str) -> bool:
        """True for a test in the experiment's folder: all that an xdist controller knows of a test is its name.

        That begins at the rootdir; outside of it, at the folder that pytest was given, or one above.
        """
        file, folder = nodeid.partition("::")[0], self.experiment.folder.resolve()
        homes = (self.config.rootpath, folder, *folder.parents)
        path = next((path for home in homes if (path := home / file).is_file()), None)
        return path is not None and path.resolve().is_relative_to(folder)

    @property
    def idle(self) -> bool:
        """True where pytest was asked to run no case: nothing starts, nothing is written."""
        shows = ("help", "collectonly", "setuponly", "setupplan", "showfixtures", "show_fixtures_per_test")
        return any(getattr(self.config.option, name, False) for name in (*shows, "benchmark_skip"))

    @cached_property
    def layers(self) -> list[Layer]:
        """Settings given beside the YAML files, weakest first."""
        layers = given_layers(self.config)
        if self.worker and (share := self.worker.get(SHARE)):
            layers.append(Layer("xdist worker", share))
        return layers

    @cached_property
    def resolved(self) -> Resolved:
        """The experiment's settings. Raises UsageProblem."""
        return resolve(self.experiment.name, self.layers, self.experiment.configs, self.config.rootpath)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The validity checks of a run in the order in which they are shown: built in, then those of plugins.

        Raises UsageProblem: one is no check, or allow_invalid names none.
        """
        added = self.config.hook.pytest_context_research_checks(settings=self.resolved.settings)
        checks = registry.extended(BUILT_IN, self._added(added))
        registry.check_allowed(self.resolved, checks)
        return checks

    @cached_property
    def backend(self) -> Backend:
        """The run's backend: for what is to be known before its engines are made, which have one for each settings."""
        return backend_of(self.resolved.settings)

    @cached_property
    def arrivals(self) -> dict[str, ArrivalProcess]:
        """The arrival processes that a case can have, by name. Raises UsageProblem."""
        return arrivals.extended(some for some in self.config.hook.pytest_context_research_arrivals() if some)

    @staticmethod
    def _added(results: Iterable[Iterable[Added] | None]) -> list[Added]:
        """What plugins return from a hook, together."""
        return [one for some in results for one in some or ()]

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The built-in metrics and those that plugins add. Raises UsageProblem."""
        added = self._added(self.config.hook.pytest_context_research_metrics(settings=self.resolved.settings))
        return metrics.extended(added)

    @cached_property
    def model(self) -> Model:
        """The model, its config read. Raises UsageProblem; may ask the hub."""
        return hub.resolve(self.resolved.settings.model, config_only=not self.backend.needs_weights)

    def model_of(self, settings: Settings) -> Model:
        """The model of one case, where it is an axis; else the run's. Raises UsageProblem as `model` does."""
        if settings.model == self.resolved.settings.model:
            return self.model
        return hub.resolve(settings.model, config_only=not self.backend.needs_weights)

    @property
    def outputs(self) -> Path:
        """Where runs are looked for, and made."""
        return self.config.rootpath / self.resolved.settings.outputs

    @cached_property
    def files(self) -> RunFiles:
        """Where this run's files go. Workers are told by their controller."""
        if self.worker and TOLD in self.worker:
            return RunFiles(Path(self.worker[OUTPUTS]), self.worker[RUN_ID])
        if self.resumption is not None:
            return self.resumption.kept.files
        chosen, outputs = self.resolved.settings, self.outputs
        named: str | None = self.config.getoption("context_research_run_id")
        mode, seed = chosen.serving.mode, chosen.seed
        return RunFiles(outputs, named or new_run_id(chosen.experiment, mode, seed))

    @property
    def logs(self) -> Path:
        """Folder of the engines' logs; each xdist worker has its own."""
        return self.files.logs / self.worker["workerid"] if self.worker else self.files.logs

    @cached_property
    def cases(self) -> list[Case]:
        """Every case of the settings, whether selected or not. Raises UsageProblem."""
        found = cases(self.resolved.settings)
        if unknown := [name for case in found if (name := case.settings.workload.arrivals) not in self.arrivals]:
            where = self.resolved.where("workload.arrivals")
            raise UsageProblem(f"{where}: no arrivals are called {unknown[0]!r}; one of {', '.join(self.arrivals)}")
        return found

    def _check_plan(self) -> None:
        """Refuse to adopt a run that was planned as another one. Raises UsageProblem."""
        if not is_planned(self.files):
            return
        plan, chosen = store.read(self.files.metadata, RunRecord), self.resolved.settings
        for what, planned, now in (
            ("experiment", plan.experiment, chosen.experiment),
            ("serving mode", plan.serving.mode, chosen.serving.mode),
            ("model", plan.model.name, chosen.model.name),
            ("weights", plan.model.weights, chosen.model.weights),
            ("seed", plan.seed, chosen.seed if plan.seed is not None else None),
        ):
            if planned != now:
                raise UsageProblem(f"run {self.files.run_id} was planned with {what} {planned}, not {now}")

    def check(self, cases: list[Case], shares: Sequence[Mapping[str, Any]] = ({},)) -> None:
        """Everything that can be known to be wrong before an engine starts. Raises UsageProblem.

        `shares`: the settings that each xdist worker will have instead of the run's.
        """
        chosen = self.resolved.settings
        if chosen.seed is None:
            raise UsageProblem(
                f"{chosen.experiment} needs a seed: give --seed=0, or seed: in your own config (--experiment-config)"
            )
        self.backend.check()
        store.check_writable(self.files.outputs)
        if self.resumption is None:
            check_run_id(self.files)
            self._check_plan()
        notes = [f"load: {told}" for case in cases if (told := described(case.settings.workload))]
        for share in shares:
            layers = [*self.layers, Layer("xdist worker", dict(share))]
            own = resolve(chosen.experiment, layers, self.experiment.configs, self.config.rootpath).settings
            warnings = preflight.check_run(own, [at(own, case.axes) for case in cases], self.model_of)
            notes += [f"warning: {warning}" for warning in warnings]
        self.notes = list(dict.fromkeys(notes))


def given_layers(config: pytest.Config) -> list[Layer]:
    """Settings that the ini file, the environment and the command line give, weakest first. Raises UsageProblem."""
    ini = {option.flag: config.getini(option.ini) for option in OPTIONS}
    home = config.inipath.parent if config.inipath else config.rootpath
    return [
        sources.parse_options("ini", {flag: text for flag, text in ini.items() if text}, home),
        sources.parse_options("environment", from_environment()),
        sources.parse_options("command line", {option.flag: config.getoption(option.dest) for option in OPTIONS}),
        sources.parse_set("command line", config.getoption("context_research_set")),
    ]


SESSION = pytest.StashKey[Session]()
