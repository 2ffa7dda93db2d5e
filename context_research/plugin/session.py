"""What one pytest session knows before anything runs: its options, settings, model, and where its files go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from context_research.engines.simulated import profiles
from context_research.engines.simulated.step_time import model_of
from context_research.errors import UsageProblem
from context_research.hardware import devices
from context_research.hardware.devices import Placement
from context_research.measure.checks import registry
from context_research.measure.checks.builtin import BUILT_IN
from context_research.measure.checks.evidence import Standing
from context_research.measure.checks.registry import Check
from context_research.models import hub
from context_research.models.model import Model
from context_research.records import store
from context_research.records.files import RunFiles, check_run_id, is_planned, new_run_id
from context_research.serving import backends, preflight
from context_research.settings import sources
from context_research.settings.options import OPTIONS, from_environment
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer, Resolved
from context_research.workload.case import Case, at, cases


class Session:
    """One per pytest process; an xdist worker's agrees with its controller's."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        self.collected = (0, "")
        """How many experiment items there were before selection, and the marker they got."""
        self.selected: list[pytest.Item] = []
        self.cannot_start: str | None = None
        """Why no engine could be had, where that ended the session."""
        self.standing = Standing()

    @cached_property
    def experiment(self) -> str | None:
        """The experiment that the command line selects: the one folder of benchmarks/ among pytest's paths.

        Raises UsageProblem for more than one: a run, its settings and its engines belong to one experiment.
        """
        found = sorted({name for argument in self.config.args for name in self._experiments_under(argument)})
        if len(found) > 1:
            raise UsageProblem(f"one experiment a session: run benchmarks/{', benchmarks/'.join(found)} one by one")
        return found[0] if found else None

    def _experiments_under(self, argument: str) -> list[str]:
        path = (self.config.invocation_params.dir / argument.partition("::")[0]).resolve()
        home = self.config.rootpath / "benchmarks"
        if path.is_relative_to(home) and path != home:
            name = path.relative_to(home).parts[0]
            return [name] if self._is_experiment(home / name) else []
        if home.is_relative_to(path):
            return [folder.name for folder in sorted(home.glob("*/")) if self._is_experiment(folder)]
        return []

    @staticmethod
    def _is_experiment(folder: Path) -> bool:
        """Known by its marker, before collection: other projects have a benchmarks/ too, and ours holds scripts."""
        tests = folder.glob("test_*.py")
        return any("mark.experiment(" in test.read_text(encoding="utf-8", errors="ignore") for test in tests)

    @property
    def idle(self) -> bool:
        """True where pytest was asked to run no case: nothing starts, nothing is written."""
        shows = ("help", "collectonly", "setuponly", "setupplan", "showfixtures", "show_fixtures_per_test")
        return any(getattr(self.config.option, name, False) for name in (*shows, "benchmark_skip"))

    @cached_property
    def layers(self) -> list[Layer]:
        """Settings given beside the YAML files, weakest first."""
        config = self.config
        ini = {option.flag: config.getini(option.ini) or None for option in OPTIONS}
        given = {option.flag: config.getoption(option.dest) for option in OPTIONS}
        layers = [
            sources.parse_options("ini", ini),
            sources.parse_options("environment", from_environment()),
            sources.parse_options("command line", given),
            sources.parse_set("command line", config.getoption("context_research_set")),
        ]
        if self.worker and (share := self.worker.get("context_research_share")):
            layers.append(Layer("xdist worker", share))
        return layers

    @cached_property
    def resolved(self) -> Resolved:
        """The experiment's settings. Raises UsageProblem."""
        if self.experiment is None:
            raise UsageProblem("no experiment is selected: name one, such as pytest benchmarks/e0")
        resolved = backends.resolve(self.experiment, self.layers)
        registry.check_allowed(resolved, self.checks)
        return resolved

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The validity checks of a run, in the order in which they are shown."""
        return BUILT_IN

    @cached_property
    def model(self) -> Model:
        """The model, its config read. Raises UsageProblem; may ask the hub."""
        return hub.resolve(self.resolved.settings.model, config_only=self.resolved.settings.simulated)

    def model_of(self, settings: Settings) -> Model:
        """The model of one case, where it is an axis; else the run's. Raises UsageProblem as `model` does."""
        if settings.model == self.resolved.settings.model:
            return self.model
        return hub.resolve(settings.model, config_only=settings.simulated)

    @cached_property
    def files(self) -> RunFiles:
        """Where this run's files go. Workers are told by their controller."""
        if self.worker:
            return RunFiles(Path(self.worker["context_research_outputs"]), self.worker["context_research_run_id"])
        chosen = self.resolved.settings
        outputs = self.config.rootpath / chosen.outputs
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
        return cases(self.resolved.settings)

    def _check_plan(self) -> None:
        """Refuse to adopt a run that was planned as another one. Raises UsageProblem."""
        if not is_planned(self.files):
            return
        plan, chosen = store.read(self.files.metadata, "run_metadata"), self.resolved.settings
        for what, planned, now in (
            ("experiment", plan["experiment"], chosen.experiment),
            ("serving mode", plan["serving"]["mode"], chosen.serving.mode),
            ("model", plan["model"]["name"], chosen.model.name),
            ("weights", plan["model"]["weights"], chosen.model.weights),
            ("seed", plan["seed"], chosen.seed if plan["seed"] is not None else None),
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
        preflight.check_backend(chosen)
        store.check_writable(self.files.outputs)
        check_run_id(self.files)
        self._check_plan()
        for share in shares:
            layers = [*self.layers, Layer("xdist worker", dict(share))]
            own = backends.resolve(chosen.experiment, layers).settings
            self._check_engines(own)
            for case in cases:
                fits = at(own, case.axes)
                placements = self._check_engines(fits.settings)
                preflight.check_fit(fits.settings, self.model_of(fits.settings), placements, [fits.load])

    def _check_engines(self, settings: Settings) -> list[Placement]:
        """Where the engines of these settings go, once nothing speaks against starting them there."""
        placements = devices.place(settings, devices.run_devices(settings))
        preflight.check_parallel(settings, placements)
        if settings.simulated:
            profile = profiles.load(str(settings.device_profile))
            for placement in placements:
                model_of(profile, self.model_of(settings), placement)
        return placements


SESSION = pytest.StashKey[Session]()
