"""Every setting that can be given outside a YAML file: one table for flag, environment variable and ini key.

Imports the standard library and our errors alone: the plugin reads the table in every project that has it installed.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_research.errors import UsageProblem

PREFIX = "--cr-"
"""Begins our flags' long names, which hold everywhere: `--seed`, `--device` are names that other plugins have too."""

SIMULATED_OPT_IN = "CONTEXT_RESEARCH_ALLOW_SIMULATED_BACKEND"


def integers(text: str) -> list[int]:
    """``"1024,4096"`` -> ``[1024, 4096]``."""
    return [int(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    """``"0.5,2"`` -> ``[0.5, 2.0]``."""
    return [float(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """``"parity,transport"`` -> ``["parity", "transport"]``."""
    return [part.strip() for part in text.split(",")]


def cache_state(text: str) -> Any:
    """``"cold"``, ``"warm"``, or ``"primed:0.5"`` -> ``{"primed": 0.5}``."""
    word, _, share = text.partition(":")
    return {word: float(share)} if share else word


def share(text: str) -> float:
    """``"3%"`` or ``"0.03"`` -> 0.03. Raises ValueError: no number, not between 0 and 1."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise ValueError(f"{text}: expected a share such as 3%")
    return value


def yes(text: str) -> bool:
    """``"1"``, ``"true"`` or ``"yes"``; ``"0"``, ``"false"`` or ``"no"``. Raises ValueError for other words."""
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"{text}: expected one of {', '.join(words)}")
    return words[text.lower()]


def whole_share(text: str) -> float:
    """``"25%"`` or ``"0.25"`` -> 0.25, up to ``"100%"``. Raises ValueError: no number."""
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def prefixed(flag: str) -> str:
    """``--seed`` -> ``--cr-seed``, the name it has everywhere."""
    return PREFIX + flag.removeprefix("--")


def unprefixed(word: str) -> str:
    """A word of a command line, ``--cr-seed=1`` -> ``--seed=1``."""
    return "--" + word.removeprefix(PREFIX) if word.startswith(PREFIX) else word


def everywhere(words: Iterable[str]) -> list[str]:
    """A command line whose words that are settings of ours have the names that hold everywhere."""
    ours = {option.flag for option in OPTIONS} | {"--set"}
    return [prefixed(word) if word.partition("=")[0] in ours else word for word in words]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: `flag` on the command line, `key` (dotted) in `Settings`."""

    flag: str
    key: str
    help: str
    parse: Callable[[str], Any] = str
    metavar: str = "NAME"

    @property
    def name(self) -> str:
        return self.flag.lstrip("-").replace("-", "_")

    @property
    def dest(self) -> str:
        return f"context_research_{self.name}"

    @property
    def ini(self) -> str:
        return f"context_research_{self.name}"

    @property
    def environment(self) -> str:
        return f"CONTEXT_RESEARCH_{self.name.upper()}"


OPTIONS = (
    Option("--serving", "serving", "serving mode: a file of configs/serving (aggregated, disaggregated)"),
    Option("--serving-config", "serving", "serving mode from this YAML file", Path, "FILE"),
    Option("--experiment-config", "experiment", "experiment settings from this YAML file", metavar="FILE"),
    Option("--seed", "seed", "decides prompts, arrival order and sampling (required)", int, "N"),
    Option("--backend", "backend", "auto (the default: real vLLM), vllm, or simulated (see " + SIMULATED_OPT_IN + ")"),
    Option("--device-profile", "device_profile", "simulated backend: a file of configs/devices (h200, …) or FILE.yaml"),
    Option("--device", "device", "auto (the default), cuda or cpu"),
    Option("--devices", "devices", "GPU ids or CPU cores of the run, shared by its engines", integers, "0,1"),
    Option("--model-name", "model.name", "hub id, local folder or a name in configs/models"),
    Option("--weights", "model.weights", "hub, seeded or dummy"),
    Option("--dtype", "model.dtype", "vLLM's dtype, such as bfloat16 or float32"),
    Option("--prompt-lengths", "workload.prompt_lengths", "prompt tokens of the cases", integers, "N,N"),
    Option("--concurrency", "workload.concurrency", "requests in flight of the cases", integers, "N,N"),
    Option("--rates", "axes.workload.rate", "offered requests/s of the cases, all devices together", numbers, "R,R"),
    Option("--output-tokens", "workload.output_tokens", "tokens that each request generates", int, "N"),
    Option("--requests", "workload.requests", "requests of a case in one repeat", int, "N"),
    Option("--repeats", "workload.repeats", "measured passes over a case's requests", int, "N"),
    Option("--warmup-requests", "workload.warmup_requests", "unmeasured requests before a case", int, "N"),
    Option("--request-timeout", "workload.request_timeout_s", "seconds after which a request fails", float, "S"),
    Option("--cache", "workload.cache", "prefix cache that each request meets", cache_state, "cold|warm|primed:0.5"),
    Option("--allow-invalid", "allow_invalid", "validity checks that may fail; shown everywhere", names, "CHECK,CHECK"),
    Option("--other-load", "machine.other_load", "share of the run's cores that others may have", whole_share, "25%"),
    Option("--share-devices", "machine.share_devices", "another run may have the same devices", yes, "yes|no"),
    Option("--outputs", "outputs", "folder for runs and reports (default: outputs)", metavar="DIR"),
)


_PATHS = frozenset({"serving", "experiment", "model.name", "device_profile", "outputs"})
"""Keys whose value is a path, or may be one."""
_TRACE = re.compile(r"workload\.(trace\.file|classes\.\w+\.rows)")
"""Keys whose value is a trace's path."""
_OTHERS = frozenset(
    f"CONTEXT_RESEARCH_{name}"
    for name in (
        *("ALLOW_SIMULATED_BACKEND", "SHORT_OPTIONS"),
        *("REQUIREMENTS_FILE", "EXTRA_REQUIREMENTS", "USE_EXISTING_ENV"),  # scripts/bootstrap.sh
        *("GOLDEN", "PARENT", "STEPS"),  # our tests'; what an engine's process is told
    )
)
"""Variables with our prefix that are no option's."""


def located(key: str, text: str, folder: Path) -> str:
    """A path in an option, `~` and all; a relative one starts at `folder`. Raises UsageProblem: no such home.

    What is not there may be a name: of a serving mode, a device profile, a model on the hub. `outputs` is made by us.
    """
    trace = _TRACE.fullmatch(key) is not None
    if key not in _PATHS and not trace:
        return text
    if not can_be_kept(text):
        raise UsageProblem(f"{flag_of(key)}={text!a}: no path can hold such characters")
    try:
        path = folder / Path(text).expanduser()
        is_path = trace or text.startswith("~") or key == "outputs"
        is_path = is_path or path.is_file() or (path / "config.json").is_file()
    except (OSError, RuntimeError) as error:  # too long a name; ~nobody
        raise UsageProblem(f"{flag_of(key)}={text}: {getattr(error, 'strerror', None) or error}") from None
    return str(path) if is_path and (key == "outputs" or folder != Path.cwd() or text.startswith("~")) else text


def can_be_kept(text: str) -> bool:
    """False for what no path and no UTF-8 file can hold: NUL, half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


def from_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The options given as environment variables: flag -> text. Raises UsageProblem: one of ours that is none."""
    ours = {option.environment: option.flag for option in OPTIONS}
    for name in sorted(environ):
        if name.startswith("CONTEXT_RESEARCH_") and name not in ours and name not in _OTHERS:
            near = difflib.get_close_matches(name, [*ours, *_OTHERS], n=1, cutoff=0)
            raise UsageProblem(
                f"{name} is no variable of ours, the nearest is {near[0]} (docs/options.md; yours need another prefix)"
            )
    return {flag: environ[name] for name, flag in ours.items() if environ.get(name)}


def flag_of(key: str) -> str:
    """The flag that sets `key`, for messages that tell a user how to change it."""
    return next((option.flag for option in OPTIONS if option.key == key), key)


def name_in(source: str, key: str) -> str | None:
    """What `key` is called where it was given: ``--seed``, ``CONTEXT_RESEARCH_SEED``; None if in no option."""
    option = next((option for option in OPTIONS if option.key == key), None)
    names = {"command line": "flag", "environment": "environment", "ini": "ini"}
    return getattr(option, names[source]) if option and source in names else None
