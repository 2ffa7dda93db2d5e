"""Hand-made runs and A/Bs on disk, whole enough to be compared, judged and reported; written by the runs' own writers.

A run's `figures` are case -> metric -> one value for each repeat.
"""

import copy
import functools
import json
import random

from context_research.compare import comparison
from context_research.compare.ab import plan as ab_plan
from context_research.measure import metrics
from context_research.measure.metrics import METRICS, Repeat
from context_research.records import requests as requests_file
from context_research.records import sent, store
from context_research.records.files import AbFiles, RunFiles
from context_research.records.requests import FileRecord, RequestRecord
from tests.support import made
from tests.support.artifacts import keep, plain
from tests.support.settings import chosen
from tests.support.timelines import timeline

CASE = "p64-c1"
FLAT = {CASE: {"ttft": [0.1], "tpot": [0.01]}}
MODES = {"baseline": "aggregated", "candidate": "disaggregated"}
_METRICS = {metric.name: metric for metric in METRICS}


def change(tree, dotted, value):
    """Set `a.b.0.c` in nested dicts and lists."""
    *groups, leaf = dotted.split(".")
    for group in groups:
        tree = tree[int(group) if isinstance(tree, list) else group]
    tree[leaf] = value


def run(outputs, run_id="r1", figures=None, *, serving="aggregated", seed=0, requests=2, changes=None, **values):
    """A completed run's folder. `changes`: dotted key of run_metadata.json -> value; `values` replace whole keys."""
    files = RunFiles(outputs, run_id)
    figures = figures or FLAT
    metadata = made.metadata(run_id, settings=_settings(serving, seed), seed=seed)
    metadata |= {"status": "completed", "serving": {"mode": serving}, "engines": [made.engine()], "exit_status": 0}
    metadata["finished"] = metadata["started"]
    metadata |= values
    for dotted, value in (changes or {}).items():
        change(metadata, dotted, value)
    keep(files.metadata, "run_metadata", metadata)
    shared = ("status", "experiment", "backend", "device", "seed", "serving", "model")
    cases = []
    for case, of in figures.items():
        served = list(_timelines(case, of, requests, tokens=4, seed=seed))
        store.append_lines(files.requests, lines(case, served))
        cases.append(_case(case, of) | {"sent_sha256": sent.digest(served)})
    summary = made.summary(run_id, cases, **{key: metadata[key] for key in shared})
    summary["requests_file"] = FileRecord.of(files.requests).model_dump()
    keep(files.summary(metadata["experiment"]), "summary", summary)
    return files


def unhashed(files):
    """Have a run be one of before its requests.jsonl was hashed; what is in that file may be changed."""
    payload = plain(files.summary("e0"), "summary") | {"requests_file": None}
    payload["cases"] = [case | {"sent_sha256": None} for case in payload["cases"]]
    keep(files.summary("e0"), "summary", payload)
    return files


def rehashed(files):
    """Have a run's hashes be those of its requests.jsonl, as it is now."""
    read = [line for line in requests_file.read(files.requests) if isinstance(line, RequestRecord)]
    payload = plain(files.summary("e0"), "summary") | {"requests_file": FileRecord.of(files.requests).model_dump()}
    for case in payload["cases"]:
        case["sent_sha256"] = sent.digest(line for line in read if line.case == case["name"])
    keep(files.summary("e0"), "summary", payload)
    return files


def sent_otherwise(files, change=lambda line: line | {"prompt_sha256": "0" * 64}):
    """Have a run's requests be others, as their hashes say: `change` makes the lines of requests.jsonl new."""
    lines = [json.loads(line) for line in files.requests.read_text().splitlines()]
    lines = [change(line) if line["kind"] == "request" else line for line in lines]
    files.requests.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return rehashed(files)


def lines(case, served):
    """The lines of requests.jsonl: a window for each repeat, and the requests."""
    for number in sorted({each.repeat for each in served}):
        own = [each for each in served if each.repeat == number]
        yield Repeat.of(own, own).window(case, number, 0.0)
    yield from (RequestRecord.of(each, case, 0.0) for each in served)


def loaded(outputs, *arguments, **values):
    return comparison.load(run(outputs, *arguments, **values))


def pair(outputs, baseline=None, candidate=None, **values):
    """Two runs of either mode, loaded."""
    one = loaded(outputs, "r1", baseline, **values)
    return one, loaded(outputs, "r2", candidate, serving="disaggregated", **values)


def summarize(name, value):
    """A metric's entry in a summary: every figure is `value`."""
    metric = _METRICS[name.rpartition(".")[2]]  # a class's, chat.ttft, is the metric's of all
    own = {"lower_is_better": metric.lower_is_better, "statistic": metric.statistic}
    if value is None:
        return metrics.summarize([], metric.unit).model_dump() | own
    return metrics.summarize([value] * 1000, metric.unit).model_dump() | own


def A_B(outputs, pairs=6, ratio=1.0, ab_id="ab1", noise=0.01, arms=MODES, changes=None, figures=None, **plan):
    """A completed A/B of `pairs`: the candidate's TTFT is `ratio` × the baseline's, with a scatter of `noise`.

    `arms`: arm -> serving mode; `changes`: arm -> what its runs' metadata have otherwise.
    """
    files, generator = AbFiles(outputs, ab_id), random.Random(0)
    planned = {
        **{
            "experiment": "e0",
            "folder": "benchmarks/e0",
            "pairs": pairs,
            "seed": 0,
            "repeats": 1,
            "pytest_options": [],
            "practical": 0.03,
        },
        **{"primary": ["ttft", "tpot"], "allow_different": [], "device_groups": []},
        "settings": {arm: {"arm": text} for arm, text in arms.items()},
        "arms": arms,
        "against": next(iter(arms)),
    } | plan
    made_plan = ab_plan.Plan(**planned)
    sessions = list(made_plan.sessions())
    for number, session in enumerate(sessions):
        arm = session.arm
        run_id = f"{ab_id}-{number:02}-{arm}"
        factor = (1.0 if arm == made_plan.against else ratio) * generator.lognormvariate(0, noise)
        own = (figures or FLAT).items()
        scaled = {name: {metric: [v * factor for v in values] for metric, values in of.items()} for name, of in own}
        run(
            outputs,
            run_id,
            scaled,
            serving=arms[arm].split()[0],
            seed=session.seed,
            changes=(changes or {}).get(arm),
            started=f"2026-11-23T10:{number:02}:00+00:00",
        )
        sessions[number] = session.model_copy(update={"run_id": run_id, "status": "completed", "seconds": 1.0})
    record(files, planned, sessions)
    return files


def record(files, plan, sessions, **values):
    """ab.json."""
    payload = {"ab_id": files.ab_id, "status": "completed", "reason": None, "pid": None}
    plain_sessions = [each if isinstance(each, dict) else each.model_dump(mode="json") for each in sessions]
    payload |= {"started": "2026-11-23T10:00:00+00:00", "finished": None, "plan": plan, "sessions": plain_sessions}
    payload |= values
    keep(files.record, "ab", payload)


def edit(path, kind, **changes):
    """Change dotted keys (`__` for a dot) of an artifact on disk."""
    payload = plain(path, kind)
    for dotted, value in changes.items():
        change(payload, dotted.replace("__", "."), value)
    keep(path, kind, payload)


def older(path, **changes):
    """Have an artifact on disk be of version 1, with dotted keys (`__` for a dot) as it had them."""
    payload = json.loads(path.read_text()) | {"schema_version": 1}
    for case in payload.get("cases", ()):
        case["params"] = case.pop("axes")
    for dotted, value in changes.items():
        change(payload, dotted.replace("__", "."), value)
    path.write_text(json.dumps(payload))


def cut(files, session):
    """Have one of an A/B's sessions be one that ran when everything was killed."""
    edit(files.record, "ab", **{f"sessions__{session}__status": "running"})
    run_id = plain(files.record, "ab")["sessions"][session]["run_id"]
    edit(RunFiles(files.outputs, run_id).metadata, "run_metadata", status="running")


def _settings(serving, seed):
    return copy.deepcopy(_resolved(serving, seed))


@functools.cache
def _resolved(serving, seed):
    return chosen(serving, seed=seed).model_dump(mode="json")


def _case(name, of):
    count = max(map(len, of.values()))
    return made.case(
        name,
        metrics={metric: summarize(metric, values[0]) for metric, values in of.items()},
        repeats=[
            {"seconds": 1.0, "steady_seconds": 1.0, "finished": 2, "output_tokens": 8}
            | {"metrics": {metric: summarize(metric, values[index]) for metric, values in of.items()}}
            for index in range(count)
        ],
    )


def _timelines(case, of, requests, tokens, seed):
    generator = random.Random(seed)
    count = max(map(len, of.values()))
    for repeat in range(count):
        # A fourth of a figure's size apart, and every request after the last: it is a closed loop.
        ttft, tpot = (of.get(name, [None] * count)[repeat] or 0.01 for name in ("ttft", "tpot"))
        due = 100.0 * repeat
        for number in range(requests):
            first = due + ttft * generator.uniform(0.9, 1.1)
            times = [first + tpot * index for index in range(tokens)]
            yield timeline(
                times,
                scheduled=due,
                request=f"{case}-{repeat}-{number}",
                repeat=repeat,
                prefill_queued=due,
                prefill_started=due,
                prefill_finished=first,
                prompt_tokens=int(case.partition("-")[0].removeprefix("p") or 8),
            )
            due = times[-1]
