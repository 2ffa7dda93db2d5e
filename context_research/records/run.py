"""A run's record."""

from __future__ import annotations

import sys
from typing import Any

from context_research.hardware.manifest import environment_manifest
from context_research.models.model import Model
from context_research.records import store
from context_research.records.files import RunFiles
from context_research.records.store import SCHEMA_VERSION
from context_research.settings.sources import Resolved


def new_metadata(files: RunFiles, resolved: Resolved, model: Model | None, command: list[str]) -> dict[str, Any]:
    """run_metadata.json as it stands before anything has run, status apart. `model` None: not looked up."""
    chosen = resolved.settings
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": files.run_id,
        "status": "incomplete",
        "reason": None,
        "pid": None,
        "exit_status": None,
        "started": store.now(),
        "finished": None,
        "command": command,
        "experiment": chosen.experiment,
        "experiment_reason": resolved.reason,
        "backend": chosen.backend,
        "device": chosen.device,
        "seed": chosen.seed,
        "serving": {"mode": chosen.serving.mode},
        "model": {
            "name": chosen.model.name,
            "weights": chosen.model.weights,
            "revision": model.revision if model else chosen.model.revision,
            "hash": model.weights_hash if model else None,
            "label": model.label if model else None,
        },
        "planned": None,
        "cases": {},
        "settings": chosen.model_dump(mode="json"),
        "settings_sources": resolved.sources,
        "engines": [],
        "environment_manifest": environment_manifest(),
    }


def this_command() -> list[str]:
    """The command line of a process that is not pytest."""
    return ["context-research", *sys.argv[1:]]
