"""Whether two runs were sent the same: only then is what differs between them their arms'."""

from __future__ import annotations

from collections.abc import Iterable

from context_research.errors import UsageProblem
from context_research.records import requests, sent
from context_research.records.files import RunFiles
from context_research.records.requests import RequestRecord
from context_research.records.summary import SummaryRecord

_EXPLAIN = {
    *("seed", "axes", "model.name", "model.revision", "model.hash"),
    *(f"workload.{key}" for key in ("prompt_lengths", "concurrency", "arrivals", "output_tokens")),
    *(f"workload.{key}" for key in ("requests", "repeats", "temperature", "classes", "trace", "length_spread")),
    *(f"workload.{key}" for key in ("rate", "cv", "warmup_s", "window_s")),
}
"""Facts that decide what is sent: where they were allowed to differ, so are the requests."""


def check(
    one: tuple[RunFiles, SummaryRecord], other: tuple[RunFiles, SummaryRecord], allowed: Iterable[str] = ()
) -> list[str]:
    """The ids of those runs, of the two, that have kept no hash of what was sent: there is nothing to compare.

    `allowed`: the facts in which they differ. Raises UsageProblem: a case was sent other requests in one than in the
    other.
    """
    if not _EXPLAIN.isdisjoint(allowed):
        return []
    before, after = _hashes(*one), _hashes(*other)
    unknown = [files.run_id for (files, _), of in ((one, before), (other, after)) if None in of.values()]
    for case in before.keys() & after.keys() if not unknown else ():
        if before[case] != after[case]:
            raise UsageProblem(
                f"{one[0].run_id} and {other[0].run_id} were sent different requests in case {case} (prompts, lengths "
                f"or order; {before[case]:.12} / {after[case]:.12}): their difference is not the arms', run them again"
            )
    return unknown


def _hashes(files: RunFiles, summary: SummaryRecord) -> dict[str, str | None]:
    """Case -> hash of what it was sent: of an earlier version's run from its requests, None where they are gone."""
    found = {case.name: case.sent_sha256 for case in summary.cases}
    if None not in found.values() or not files.requests.is_file():
        return found
    served: dict[str, list[RequestRecord]] = {}
    for line in requests.read(files.requests):
        if isinstance(line, RequestRecord):
            served.setdefault(line.case, []).append(line)
    return found | {case: sent.digest(of) for case, of in served.items() if found.get(case, "") is None}
