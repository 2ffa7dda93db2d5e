"""Our options on pytest's command line: `--cr-seed` everywhere, and `--seed` where that is wanted and nobody's else."""

from __future__ import annotations

import os
import re
from argparse import ArgumentError
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest

from context_research.settings.experiments import PACKAGE
from context_research.settings.options import OPTIONS, prefixed, share

SHORT_KEY = "context_research_short_options"
"""The ini key, and in capitals the environment variable, by which a project asks for the short names."""

_SHORT = pytest.StashKey[frozenset[str]]()

OF_A_RUN: Mapping[str, Mapping[str, Any]] = {
    "--set": {
        "action": "append",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "any other setting, by its name in the YAML files: engine.max_num_batched_tokens=4096; may be repeated",
    },
    "--verdict-against": {
        "metavar": "RUN",
        "help": "compare this run with an earlier one (id or folder) and fail if a primary metric is worse",
    },
    "--start-noise": {
        "metavar": "10%",
        "type": share,
        "help": "with --verdict-against: how far two starts of the same engines lie apart on this machine",
    },
    "--run-id": {"metavar": "ID", "help": "name of the run's folder; adopts one from init-run"},
    "--resume": {
        "metavar": "RUN",
        "help": "go on with a run (id or folder) that ended before its last case: those that passed are kept",
    },
    "--device-groups": {
        "metavar": "'0;1'",
        "help": "with xdist: the devices of each worker, groups separated by ';' (default: one group, all devices)",
    },
}
"""Options that are no settings: they say what is done with a run. Flag -> argparse's arguments."""


def _all() -> dict[str, dict[str, Any]]:
    settings: dict[str, Mapping[str, Any]] = {
        option.flag: {"metavar": option.metavar, "help": option.help} for option in OPTIONS
    }
    every = settings | dict(OF_A_RUN)
    return {flag: {"dest": dest(flag), "default": None, **attributes} for flag, attributes in every.items()}


def dest(flag: str) -> str:
    """Where pytest keeps an option's value, under whichever name it was given."""
    return f"context_research_{flag.removeprefix('--').replace('-', '_')}"


def add(parser: pytest.Parser) -> None:
    """The names that hold everywhere, and the ini keys."""
    group = parser.getgroup("context-research", "context-research, where an experiment is selected")
    for flag, attributes in _all().items():
        group.addoption(prefixed(flag), **attributes)
    for option in OPTIONS:
        parser.addini(option.ini, f"{option.help} ({prefixed(option.flag)})", default=None)
    parser.addini(SHORT_KEY, "take --seed for --cr-seed, and so on, where no other plugin has that name", "bool", False)


def add_short(parser: pytest.Parser, config: pytest.Config) -> None:
    """The short names, of those that no plugin and no conftest has taken. To be called once they are loaded."""
    added = set()
    if _wants_short(config):
        group = parser.getgroup("context-research-short", "context-research: the same, by names that are free here")
        for flag, attributes in _all().items():
            with suppress(ArgumentError):  # it is another's
                group.addoption(flag, **(attributes | {"help": prefixed(flag)}))
                added.add(flag)
    config.stash[_SHORT] = frozenset(added)


def _wants_short(config: pytest.Config) -> bool:
    """In our own checkout, and where a project asks for it."""
    asked = os.environ.get(SHORT_KEY.upper(), "")
    ours = (PACKAGE.parent / "pyproject.toml").is_file() and config.rootpath.resolve().is_relative_to(PACKAGE.parent)
    return ours or asked not in ("", "0") or bool(config.getini(SHORT_KEY))


def worded(message: str, config: pytest.Config) -> str:
    """A message of ours, its flags as this project knows them: --seed, or --cr-seed."""
    long = {option for option in _all() if option not in config.stash.get(_SHORT, frozenset())}
    return re.sub(r"(?<![\w-])--[a-z][a-z-]*", lambda flag: prefixed(flag[0]) if flag[0] in long else flag[0], message)
