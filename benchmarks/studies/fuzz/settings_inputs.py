"""Settings that are spoilt: YAML files, --set, options, variables, arms; read as a run or an A/B reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import yaml

import endings
import mutations
from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.compare.ab import arms as ab_arms
from context_research.compare.ab import plan as ab_plan
from context_research.engines.simulated import profiles
from context_research.hardware.manifest import environment_manifest
from context_research.models import hub
from context_research.models.model import Model
from context_research.records import store
from context_research.records.run import ManifestRecord, new_run
from context_research.serving import preflight
from context_research.settings import options, sources
from context_research.settings.experiments import CONFIGS, Experiment
from context_research.settings.options import OPTIONS
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer
from context_research.workload.case import at, cases
from context_research.workload.load import loads

_KEYS = (
    *(
        "model.name",
        "model.revision",
        "model.dtype",
        "engine.args",
        "engine.args.seed",
        "engine.block_size",
        "slo.ttft",
    ),
    *("engine.max_num_seqs", "engine.gpu_memory_utilization", "workload.prompt_lengths", "workload.cache"),
    *("axes", "workload.requests", "workload.concurrency", "workload.output_tokens", "engine.kv_cache_memory_bytes"),
    *("axes.engine.block_size", "axes.workload.cache", "axes.mine", "serving.engines", "serving.engines.0.name"),
    *("serving.mode", "serving.handoff", "serving.handoff.extra_config", "devices", "seed", "outputs", "device"),
    *("backend", "device_profile", "allow_invalid", "workload", "model", "workload.arrivals", "nothing.here", "", "."),
    *("workload.rate", "workload.cv", "workload.window_s", "workload.warmup_s", "workload.length_spread"),
    *("workload.classes", "workload.classes.chat.rows", "workload.trace", "workload.trace.file", "axes.workload.rate"),
)
_PLAUSIBLE = (
    *("64", "1", "2", "17", "100000000", "0.5", "float32", "bfloat16", "cold", "warm", "{primed: 0.5}", "primed:0.25"),
    *("[64, 128]", "[1]", "64,128", "1,4", "cpu", "cuda", "auto", "simulated", "vllm", "cpu-2core", "h200", "h100"),
    *("aggregated", "disaggregated", "disaggregated-1p1d", "seeded", "dummy", "hub", "tiny-qwen3", "parity", "here"),
    *(
        "[{name: a, role: aggregated}]",
        "{workload.cache: [cold, warm]}",
        "{mine: [1, 2]}",
        "{a: 1}",
        "[16, 32]",
        "true",
    ),
)
Trial = tuple[str, Callable[[], str | None]]


class Inputs:
    """`folder` is for the files that are spoilt and the records that are written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._smoke = CONFIGS / "experiments" / "e0_smoke.yaml"

    def yaml_file(self, random: Random) -> Trial:
        """An experiment's, a serving mode's or a device profile's."""
        source = random.choice(sorted(CONFIGS.glob("*/*.yaml")))
        original = source.read_text(encoding="utf-8")
        if random.random() < 0.5:
            spoilt = mutations.text(original, random)
        else:
            spoilt = yaml.safe_dump(mutations.tree(yaml.safe_load(original), random), allow_unicode=True)
        path = self._folder / "spoilt.yaml"
        path.write_bytes(spoilt.encode("utf-8", "surrogatepass"))
        if source.parent.name == "devices":
            return spoilt, lambda: endings.worked(profiles.load(str(path)).digest)
        flag = "--serving-config" if source.parent.name == "serving" else "--experiment-config"
        return spoilt, lambda: self.read([sources.parse_options("command line", {flag: str(path)})])

    def set_option(self, random: Random) -> Trial:
        """One or two of --set."""
        given = [f"{self._key(random)}={self._value(random)}" for _ in range(random.randint(1, 2))]
        return repr(given), lambda: self.read([sources.parse_set("command line", given)])

    def option(self, random: Random) -> Trial:
        """Flags, or the variables of the same."""
        chosen = random.sample(OPTIONS, random.randint(1, 3))
        texts = {option.flag: self._value(random) for option in chosen}
        if random.random() < 0.5:
            return repr(texts), lambda: self.read([sources.parse_options("command line", texts)])
        variables = {option.environment: texts[option.flag] for option in chosen}
        if random.random() < 0.2:
            variables = {mutations.text(name, random): value for name, value in variables.items()}
        return repr(variables), lambda: self.read(
            [sources.parse_options("environment", options.from_environment(variables))]
        )

    def arm(self, random: Random) -> Trial:
        """An A/B's arms, options behind --, groups of devices and figures: as far as its plan."""
        arms = [self._arm(random) for _ in range(2)]
        common = [f"--set={self._key(random)}={self._value(random)}"] if random.random() < 0.3 else []
        given: dict[str, Any] = {
            "device_groups": self._value(random) if random.random() < 0.2 else None,
            "primary": [self._value(random)] if random.random() < 0.2 else None,
            "allow_different": (self._value(random),) if random.random() < 0.1 else ("model.dtype", "slo"),
        }
        return f"{arms} {common} {given}", lambda: self._plan(arms, common, given)

    def command(self, random: Random) -> Trial:
        """A command's own arguments: names of runs, figures, margins."""
        words = random.choice(("verdict", "report", "init-run --config-path", "calibrate --write x.yaml", "fidelity"))
        more = random.sample(
            ("--primary", "--practical", "--start-noise", "--allow-different", "--outputs", "--seed"), 2
        )
        given = [*words.split(), self._value(random)]
        for flag in more[: random.randint(0, 2)]:
            given += [flag, self._value(random)]
        if words.startswith("init-run"):  # writes: nowhere but here
            given = [words.split()[0], "--config-path", random.choice((str(self._smoke), given[2])), "--outputs", "out"]
            given += [
                f"--seed={self._value(random)}",
                f"--serving={random.choice(('aggregated', self._value(random)))}",
            ]
        given = [word.replace("\0", "") for word in given]  # no process can be given that
        return repr(given), lambda: endings.command(*given)

    def _arm(self, random: Random) -> str:
        words = [random.choice(("aggregated", "disaggregated", self._value(random)))]
        if random.random() < 0.6:
            words.append(f"--set {self._key(random)}={self._value(random)}")
        if random.random() < 0.4:
            words.append(f"{random.choice(OPTIONS).flag} {self._value(random)}")
        text = " ".join(words)
        return mutations.text(text, random) if random.random() < 0.3 else text

    def _plan(self, arms: Sequence[str], common: Sequence[str], given: dict[str, Any]) -> str | None:
        experiment = Experiment("e0", CONFIGS.parent / "benchmarks" / "e0")
        asked: dict[str, Any] = {"pairs": 2, "seed": 0, "repeats": 1, "pytest_options": tuple(common)}
        # The device groups are of a machine: a run's is asked for them.
        layers = [Layer("fuzz", {"device": "cpu", "experiment": str(self._smoke)})]
        made = ab_plan.plan(
            experiment, dict(zip(ab_arms.DEFAULT, arms, strict=True)), given=layers, root=self._folder, **asked, **given
        )
        endings.worked([*made.sessions(), made.family, made.record(), made.arguments("candidate")])
        return None

    def _key(self, random: Random) -> str:
        key = random.choice(_KEYS)
        return mutations.text(key, random) if random.random() < 0.2 else key

    def _value(self, random: Random) -> str:
        kind = random.random()
        if kind < 0.4:
            return random.choice(_PLAUSIBLE)
        if kind < 0.6:
            return random.choice(mutations.YAML_ONLY)
        value = json.dumps(random.choice(mutations.VALUES))
        return value if kind < 0.85 else mutations.text(value, random)

    def read(self, layers: Sequence[Layer]) -> str | None:
        """What a run does with its settings before anything starts."""
        usual = {"seed": 0, "device": "cpu", "experiment": str(self._smoke)}
        given = {key for layer in layers for key in layer.values}
        layers = [Layer("fuzz", {key: value for key, value in usual.items() if key not in given}), *layers]
        with patch.dict(os.environ, {options.SIMULATED_OPT_IN: "1"}):
            resolved = resolve("e0", layers, root=self._folder)
            found, chosen = cases(resolved.settings), resolved.settings
            record = new_run("fuzz", resolved, None, ["pytest"], _manifest())
            store.write(self._folder / "run_metadata.json", record)
            store.read(self._folder / "run_metadata.json", type(record)).resolved_settings()
            backend = backend_of(chosen)
            backend.check()
            for case in found[:20]:
                own = at(chosen, case.axes).settings
                preflight.check(backend_of(own), _model(own), loads(at(chosen, case.axes)))
                preflight.warnings(backend_of(own), _model(own), at(chosen, case.axes))
        return None


def _model(settings: Settings) -> Model:
    # A name that is no folder here would be asked for on the hub: a look-up for every spoilt one.
    folder = CONFIGS / "models" / settings.model.name
    named = settings.model.name if (folder / "config.json").is_file() else "tiny-qwen3"
    return hub.resolve(settings.model.model_copy(update={"name": named}), config_only=True)


@cache
def _manifest() -> ManifestRecord:
    return ManifestRecord.model_validate(environment_manifest())
