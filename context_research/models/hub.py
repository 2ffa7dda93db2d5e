"""Which model a run serves: its config, where its weights come from, and a hash that says they are the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from context_research.errors import UsageProblem
from context_research.models.model import Model
from context_research.settings.schema import CONFIGS, ModelSettings

SEEDED_VERSION = 1
"""Raised whenever engines/vllm/seeded_weights.py fills a model differently."""
_HUB_FILES = ["*.safetensors", "*.json"]


def resolve(settings: ModelSettings, *, config_only: bool = False) -> Model:
    """Find the model's config: configs/models, a local folder, else the hub (config.json only, no weights yet).

    `config_only`: no weights will be wanted, so that a config of configs/models does whatever they are.
    Raises UsageProblem: not found, gated, no network, no readable config.
    """
    shipped, local = CONFIGS / "models" / settings.name, Path(settings.name)
    if (config_only or settings.weights != "hub") and (shipped / "config.json").is_file():
        return _from_folder(settings, shipped, config_only)
    if local.is_dir():
        return _from_folder(settings, local, config_only)
    if (shipped / "config.json").is_file() and "/" not in settings.name:
        raise UsageProblem(f"model {settings.name} is built in and has no weights on the hub: use --weights=seeded")
    return _from_hub(settings)


def download(model: Model) -> Model:
    """The model with a local path, its weights fetched through huggingface-hub where they are not cached.

    Raises UsageProblem as `resolve` does.
    """
    if model.path is not None:
        return model
    from huggingface_hub import snapshot_download

    with _hub_problems(model.settings):
        path = Path(snapshot_download(model.settings.name, revision=model.revision, allow_patterns=_HUB_FILES))
    # Off line it returns what the cache has, which is config.json alone once `resolve` has run.
    if missing := _missing_weights(path):
        raise UsageProblem(
            f"model {model.settings.name}: {path} lacks {missing}, and the hub can't be reached or has none: check the "
            "network and HF_HOME, or use --weights=seeded"
        )
    return Model(model.settings, path, model.config, model.revision, model.weights_hash)


def _missing_weights(folder: Path) -> str | None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return None if any(folder.glob("*.safetensors")) else "*.safetensors"
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return next((shard for shard in shards if not (folder / shard).is_file()), None)


def _from_folder(settings: ModelSettings, folder: Path, config_only: bool) -> Model:
    config = _read_config(folder / "config.json")
    if settings.weights != "hub" or config_only:
        return Model(settings, folder, config, None, _hash(settings, config, []))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageProblem(f"{folder} holds no *.safetensors: add them, or use --weights=seeded")
    listing = [(file.name, file.stat().st_size, _ends(file)) for file in files]
    return Model(settings, folder, config, None, _hash(settings, config, listing))


def _ends(file: Path, size: int = 1 << 20) -> str:
    """Hash of a file's first and last MiB: all 16 GB of a model would take longer than a smoke run at each start."""
    with file.open("rb") as stream:
        first = stream.read(size)
        stream.seek(max(0, file.stat().st_size - size))
        return sha256(first + stream.read(size)).hexdigest()


def _from_hub(settings: ModelSettings) -> Model:
    from huggingface_hub import hf_hub_download

    with _hub_problems(settings):
        path = Path(hf_hub_download(settings.name, "config.json", revision=settings.revision))
    # The cache names a snapshot's folder by its commit.
    revision, config = path.parent.name, _read_config(path)
    folder = None if settings.weights == "hub" else path.parent
    return Model(settings, folder, config, revision, _hash(settings, config, revision))


def _hash(settings: ModelSettings, config: Mapping[str, Any], content: object) -> str:
    version = SEEDED_VERSION if settings.weights == "seeded" else 0
    text = json.dumps([settings.weights, version, dict(config), content], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _read_config(path: Path) -> dict[str, Any]:
    needed = ("max_position_embeddings", "vocab_size", "num_hidden_layers", "num_attention_heads", "hidden_size")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(f"cannot read the model's config {path}: {error}") from None
    config = config.get("text_config", config) if isinstance(config, dict) else config
    if not isinstance(config, dict):
        raise UsageProblem(f"{path} holds no model's config: keys and values were expected, got {config!r:.40}")
    if missing := [key for key in needed if key not in config]:
        raise UsageProblem(f"{path} lacks {', '.join(missing)}: no decoder-only transformer's config")
    return dict(config)


class _hub_problems:
    """Turns huggingface-hub's errors into one line with the fix."""

    def __init__(self, settings: ModelSettings) -> None:
        self._name = f"{settings.name}{'@' + settings.revision if settings.revision else ''}"

    def __enter__(self) -> None:
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would stand before our one line

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from huggingface_hub import errors

        # What the hub answered is told, not that there was no answer.
        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
            error = error.__cause__
        # Order matters: gated is a subclass of not found, and a missing file off line is an entry not found.
        causes: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
            ((errors.GatedRepoError,), "is gated: accept its terms on the hub and set HF_TOKEN"),
            ((errors.RevisionNotFoundError,), "has no such revision on the hub: check model.revision"),
            (
                (errors.RepositoryNotFoundError, errors.HFValidationError),
                "is neither a folder here, nor in configs/models, nor on the hub: check --model-name, or set HF_TOKEN "
                "if it is private",
            ),
            (
                (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError),
                "is not in the cache and the hub can't be reached: check the network and HF_HOME, name a local folder "
                "with --model-name, or use --weights=seeded with a model of configs/models",
            ),
            ((errors.HfHubHTTPError, errors.EntryNotFoundError, OSError), f"can't be fetched: {_first_line(error)}"),
        )
        for kinds, problem in causes:
            if isinstance(error, kinds):
                raise UsageProblem(f"model {self._name} {problem}") from None


def _first_line(error: BaseException) -> str:
    return (str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__])[0]
