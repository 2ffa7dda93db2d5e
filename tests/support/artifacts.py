"""What a run left in its folder."""

import json
import re

from context_research.records import store
from context_research.records.ab import AbRecord
from context_research.records.fidelity import FidelityRecord
from context_research.records.reference import ReferenceRecord
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord
from context_research.records.verdict import VerdictRecord

KINDS = {
    "run_metadata": RunRecord,
    "summary": SummaryRecord,
    "ab": AbRecord,
    "verdict": VerdictRecord,
    "fidelity": FidelityRecord,
    "parity_reference": ReferenceRecord,
}


def plain(path, kind):
    """An artifact as plain data, once its record has read it."""
    return store.read(path, KINDS[kind]).model_dump(mode="json", by_alias=True)


def keep(path, kind, payload):
    """Write plain data as the artifact that it is."""
    store.write(path, KINDS[kind].model_validate_json(json.dumps(payload), strict=True))


def metadata(folder):
    return plain(folder / "run_metadata.json", "run_metadata")


def summary(folder):
    return plain(folder / "e0_summary.json", "summary")


def requests(folder):
    """The requests of requests.jsonl."""
    lines = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "request"]


def sent(folder):
    """Of each request: what was asked, and what was generated."""
    return {line["request"]: (line["prompt_sha256"], line["token_ids"]) for line in requests(folder)}


def rows_saved(folder):
    """pytest-benchmark's files below a session's rootdir, in their order."""
    return sorted((folder / ".benchmarks").glob("*/*.json"))


def cells(text, title):
    """The cells of a report's table below `title`."""
    section = text.partition(f"{title}\n")[2].partition("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
