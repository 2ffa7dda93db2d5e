"""What a run left in its folder."""

import json
import re

from context_research.records import store


def metadata(folder):
    return store.read(folder / "run_metadata.json", "run_metadata")


def summary(folder):
    return store.read(folder / "e0_summary.json", "summary")


def requests(folder):
    """The lines of requests.jsonl."""
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]


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
