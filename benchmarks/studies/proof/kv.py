"""How far apart log-probabilities are over a sound handoff, and over one that damages the KV: what bounds `kv` by.

    python benchmarks/studies/proof/kv.py --prompt-lengths 513,4097 --prompts 6

Starts one prefill and one decode engine as E0 would on this machine, with seeded weights, whose connector damages what
it delivered as a file says (damaging_nixl.py). Beside it: how often two sound engines' first tokens differ under load,
and how long after its engine a token is at the client. Prints one table each.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from tabulate import tabulate

from context_research.backends.registry import backend_of
from context_research.backends.resolve import resolve
from context_research.measure.case import measure
from context_research.measure.checks import first_token, kv_probe
from context_research.measure.checks.evidence import Proof, Standing, begun
from context_research.models import hub
from context_research.models.model import Model
from context_research.request import Request, Timeline
from context_research.serving import build
from context_research.serving.topology import Topology
from context_research.settings.schema import Settings
from context_research.settings.sources import Layer, parse_set
from context_research.workload.case import Case, point
from context_research.workload.prompts import alone, requests
from damaging_nixl import FAULT

FAULTS = (
    *("", "block:0:zero", "block:-1:zero", "layer:0:zero", "layer:-1:zero", "lastblock:0:zero", "lastblock:-1:zero"),
    *("k:zero", "v:zero", "all:shift", "all:int8", "all:fp8", "all:bf16", "all:noise=0.05", "all:noise=0.01"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-lengths", default="513", help="tokens (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=6, help="of each length and fault (default: %(default)s)")
    parser.add_argument("--loads", default="513x4", help="prompt tokens × in flight, for first tokens (%(default)s)")
    parser.add_argument("--requests", type=int, default=64, help="of each load (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as pytest's --set")
    asked = parser.parse_args()
    lengths = [int(text) for text in asked.prompt_lengths.split(",")]
    settings = _settings(asked.set, asked.requests)
    model = hub.resolve(settings.model)
    with tempfile.TemporaryDirectory() as folder, _running(settings, model, Path(folder)) as (topology, fault):
        print(_distances(settings, model, topology, fault, lengths, asked.prompts), flush=True)
        loads = [tuple(map(int, text.split("x"))) for text in asked.loads.split(",")]
        print(_loads(settings, model, topology, loads))


def _settings(given: list[str], count: int) -> Settings:
    own: dict[str, object] = {
        "serving": "disaggregated",
        "serving.handoff.connector_module": "damaging_nixl",
        "seed": 0,
        "model.weights": "seeded",
        "workload.output_tokens": 16,
        "workload.repeats": 1,
        "workload.requests": count,
    }
    return resolve("e0", [Layer("study", own), parse_set("command line", given)]).settings


@contextmanager
def _running(settings: Settings, model: Model, folder: Path) -> Iterator[tuple[Topology, Path]]:
    fault = folder / "fault"
    fault.touch()
    os.environ[FAULT] = str(fault)
    with closing(build.with_logs(backend_of(settings), model, folder)) as topology:
        topology.start()
        yield topology, fault


def _distances(
    settings: Settings, model: Model, topology: Topology, fault: Path, lengths: list[int], prompts: int
) -> str:
    rows = []
    for length in lengths:
        case = point(settings, length, 1)
        proof = begun(case, model, topology, Standing(), [])

        def emptied(proof: Proof = proof) -> None:
            with proof.counting([]):
                pass

        ways, another = list[float](), list[float]()
        for number in range(prompts):
            emptied()
            prefill, decode = next(kv_probe.pairs(topology))
            known = topology.backend.loop.run(kv_probe.measure(prefill, decode, *_alone(case, model, number), 60.0))
            ways.append(known.ways)
            another.append(known.another)
        rows += [[length, "one engine's two ways", *_spread(ways)], [length, "another prompt", *_spread(another)]]
        for damage in FAULTS:
            fault.write_text(damage, encoding="utf-8")
            found = []
            for number in range(prompts):
                emptied()
                found.append(_distance(case, model, topology, number))
            rows.append([length, damage or "sound handoff", *_spread(found)])
        fault.write_text("", encoding="utf-8")
    return tabulate(rows, ["prompt", "distance in nats", "least", "median", "most"], floatfmt=".4f")


def _alone(case: Case, model: Model, number: int) -> tuple[Request, Request]:
    if (made := alone(case, model.vocabulary, number, kv_probe.TOKENS, model.max_length)) is None:
        raise SystemExit(
            f"--prompt-lengths {case.prompt_tokens}: not one block of the model's {model.max_length} tokens"
        )
    return made


def _distance(case: Case, model: Model, topology: Topology, number: int) -> float:
    request, _ = _alone(case, model, number)
    prefill, decode = next(kv_probe.pairs(topology))
    known = kv_probe.Yardstick(0.0, 0.0)
    found = topology.backend.loop.run(kv_probe.probe(topology, prefill, decode, request, known, 60.0))
    if found.error:
        raise SystemExit(found.error)
    return found.distance


def _loads(settings: Settings, model: Model, topology: Topology, loads: list[tuple[int, ...]]) -> str:
    rows = []
    for length, level in loads:
        for temperature in (0.0, 0.8):
            own = settings.model_copy(
                update={"workload": settings.workload.model_copy(update={"temperature": temperature})}
            )
            case = point(own, length, level)
            result = measure(case, model, topology)
            sent = [each for each in result.timelines if each.phase != "warmup"]
            different = first_token.differing(sent)
            gaps = _gaps(case, model, topology, different) if temperature == 0 else []
            legs = [leg for each in sent for leg in each.legs if leg.engine_times]
            delays = np.concatenate([np.subtract(leg.token_times, leg.engine_times) for leg in legs]) * 1e3
            behind = np.concatenate([np.subtract(leg.token_times[:-1], leg.engine_times[1:]) for leg in legs]) * 1e3
            shares = [np.quantile(delays, q) for q in (0.1, 0.5, 0.99)]
            late = float((behind > 1).mean()) if len(behind) else 0.0
            rows.append([length, level, temperature, len(sent), len(different), max(gaps, default=0.0), *shares, late])
    heads = ["prompt", "in flight", "temperature", "requests", "first tokens differ", "widest gap (nats)"]
    return tabulate(rows, [*heads, "delay p10 (ms)", "p50", "p99", "share after next"], floatfmt=".3f")


def _gaps(case: Case, model: Model, topology: Topology, different: list[Timeline]) -> list[float]:
    sent = {each.id: each for each in requests(case, model.vocabulary, 0)}
    looking = first_token.look_up(topology.prefillers[0], different, sent, 1e9, 60.0)
    return [each.gap for each in topology.backend.loop.run(looking) if each.gap is not None]


def _spread(values: list[float]) -> list[float]:
    return [min(values), float(np.median(values)), max(values)] if values else [0.0] * 3


if __name__ == "__main__":
    main()
