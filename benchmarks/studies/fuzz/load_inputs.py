"""Loads and traces that are spoilt: settings that describe one, files of the three formats; read as pre-flight does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import yaml

import mutations
from context_research.settings import sources
from context_research.settings.experiments import CONFIGS
from context_research.settings.sources import Layer

_MOONCAKE = [
    json.dumps({"timestamp": 500 * at, "input_length": 600, "output_length": 5, "hash_ids": [0, at]})
    for at in range(8)
    for _ in range(2)
]
_AZURE = [
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    *(f"2023-11-16 18:15:4{at}.6805900,{370 + at},44" for at in range(8)),
]
_ROWS = [json.dumps({"at": at / 2, "prompt_tokens": 10 + at, "output_tokens": 3, "class": "chat"}) for at in range(9)]
_FORMATS = (_MOONCAKE, _AZURE, _ROWS)
_OPEN: dict[str, object] = {
    "arrivals": "open",
    "rate": 2.0,
    "cv": 1.5,
    "warmup_s": 1.0,
    "window_s": 20.0,
    "length_spread": 0.1,
    "classes": {
        "chat": {"share": 9, "prompt": {"low": 5, "high": 50}, "output": {"p50": 5, "p90": 9, "max": 20}},
        "document": {"share": 1, "prompt": 500, "slo": {"ttft": 1.0}},
        "recorded": {"rows": "trace"},
    },
}
_REPLAY: dict[str, object] = {
    "arrivals": "replay",
    "warmup_s": 0.5,
    "trace": {"file": "trace", "start_s": 0.5, "seconds": 2.0, "time_scale": 2.0, "longest_prompt": 1000},
}
Trial = tuple[str, Callable[[], str | None]]


class Loads:
    """`folder` is for the files that are spoilt; `read` does with settings what a run does before anything starts."""

    def __init__(self, folder: Path, read: Callable[[list[Layer]], str | None]) -> None:
        self._folder, self._read = folder, read
        self._smoke = yaml.safe_load((CONFIGS / "experiments" / "e0_smoke.yaml").read_text(encoding="utf-8"))

    def load(self, random: Random) -> Trial:
        """An open or replayed load with a value, a key or a group that is wrong, of a sound trace."""
        trace = random.choice(_FORMATS)
        spoilt = mutations.tree(json.loads(json.dumps(random.choice((_OPEN, _REPLAY)))), random)
        return repr(spoilt), lambda: self._try(spoilt, "\n".join(trace).encode())

    def trace(self, random: Random) -> Trial:
        """A sound load of a trace that isn't."""
        lines = list(random.choice(_FORMATS))
        if random.random() < 0.5 and lines[0].startswith("{"):
            number = random.randrange(len(lines))
            lines[number] = json.dumps(mutations.tree(json.loads(lines[number]), random))
            text = "\n".join(lines)
        else:
            text = mutations.text("\n".join(lines), random)
        workload = _REPLAY if random.random() < 0.7 else _OPEN
        return text, lambda: self._try(workload, text.encode("utf-8", "surrogatepass"))

    def _try(self, workload: object, trace: bytes) -> str | None:
        (self._folder / "trace").write_bytes(trace)
        path = self._folder / "load.yaml"
        path.write_bytes(yaml.safe_dump(self._smoke | {"workload": workload}).encode("utf-8", "surrogatepass"))
        return self._read([sources.parse_options("command line", {"--experiment-config": str(path)})])
