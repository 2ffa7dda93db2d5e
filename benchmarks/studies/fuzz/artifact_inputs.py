"""Artifacts that are spoilt, one at a time, and read by the commands that read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import endings
import made_outputs
import mutations
from context_research.records import store
from context_research.records.base import Artifact
from context_research.records.files import AbFiles, RunFiles
from context_research.records.reference import ReferenceRecord
from context_research.records.summary import SummaryRecord
from context_research.records.verdict import VerdictRecord

_AB = (
    *("verdict ab1", "report ab1", "verdict ab1 --primary e2e.p50", "verdict latest"),
    "fidelity ab1 --device-profile cpu-2core",
)
_RUN = (
    *("report r1", "verdict r1 r2", "verdict r2 r1 --primary goodput", "verdict r1", "report latest"),
    *("calibrate r1 r2 --write {spare}", "verdict r2 --allow-different seed"),
    "fidelity r1 r2 --device-profile cpu-2core",
)


class Inputs:
    """`outputs` is made here; each trial spoils one of its files, and the next finds it whole again."""

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        made_outputs.make(outputs)
        run, ab = RunFiles(outputs, "r1"), AbFiles(outputs, "ab1")
        of_ab = RunFiles(outputs, "ab1-2-candidate")
        self._readers: dict[Path, tuple[str, ...]] = {
            run.metadata: _RUN,
            run.summary("e0"): _RUN,
            run.requests: _RUN,
            ab.record: _AB,
            of_ab.metadata: _AB,
            of_ab.summary("e0"): _AB,
            of_ab.requests: _AB,
            run.steps / "aggregated.csv": ("calibrate r1 r2 --write {spare}", "calibrate r1 --write {spare}"),
            ab.verdict: (),
            outputs / made_outputs.REFERENCE: (),
        }
        self._records: dict[Path, type[Artifact]] = {
            ab.verdict: VerdictRecord,
            outputs / made_outputs.REFERENCE: ReferenceRecord,
        }
        self._whole = {path: path.read_bytes() for path in self._readers}
        self._summaries = {run.requests: run.summary("e0"), of_ab.requests: of_ab.summary("e0")}

    def artifact(self, random: Random) -> tuple[str, Callable[[], str | None]]:
        """One file spoilt, and one command that reads it."""
        for path, content in self._whole.items():
            path.write_bytes(content)
        path = random.choice(sorted(self._readers))
        spoilt = self._spoilt(path, random)
        if path in self._summaries and random.random() < 0.8:
            self._unhash(self._summaries[path])
        path.write_bytes(spoilt)
        what = f"{path.relative_to(self._outputs)}: {spoilt[:2000]!r}"
        if path in self._records:
            kind = self._records[path]
            return what, lambda: endings.worked(store.read(path, kind))
        words = random.choice(self._readers[path]).format(spare=self._outputs / "spare.yaml").split()
        if "--write" in words:
            words.append("--force")
        return f"{' '.join(words)}; {what}", lambda: endings.command(*words, "--outputs", str(self._outputs))

    def _spoilt(self, path: Path, random: Random) -> bytes:
        source, kind = self._whole[path].decode(), random.random()
        if kind < 0.15:
            return mutations.text(source, random).encode("utf-8", "surrogatepass")
        if kind < 0.3:
            return mutations.broken_json(source, random).encode()
        if path.suffix == ".csv":
            return mutations.text(source.replace("120,", f"{random.choice(mutations.VALUES)},"), random).encode()
        if path.suffix != ".jsonl":
            return json.dumps(mutations.tree(json.loads(source), random)).encode("utf-8", "surrogatepass")
        lines = source.splitlines()
        for _ in range(random.randint(1, 2)):
            number = random.randrange(len(lines))
            lines[number] = json.dumps(mutations.tree(json.loads(lines[number]), random))
        return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")

    def _unhash(self, summary: Path) -> None:
        """Have the run be one of before its requests were hashed: else every change of them is refused for that."""
        record = store.read(summary, SummaryRecord)
        cases = tuple(case.model_copy(update={"sent_sha256": None}) for case in record.cases)
        store.write(summary, record.model_copy(update={"requests_file": None, "cases": cases}))
