"""A report over a day's work: a million token times."""

import json
import shutil
import subprocess
import sys

from context_research.records import store
from context_research.records.files import RunFiles
from tests.support import made_runs
from tests.support.artifacts import keep, plain
from tests.support.timelines import timeline

TIMESTAMPS = 1_000_000
SESSIONS, CASES, TOKENS = 12, ("p256-c1", "p256-c4", "p1024-c1", "p1024-c4"), 128
BAR_S, BAR_BYTES = 10, 1 << 30
REPORT = """
import json, re, sys, time
from pathlib import Path
from context_research.compare.ab import sessions as ab
from context_research.records.files import AbFiles
from context_research.report import comparison
start = time.process_time()
comparison.write(ab.judge(AbFiles(Path(sys.argv[1]), "ab1")))
seconds = time.process_time() - start
# Not getrusage's ru_maxrss: a child starts with its parent's, here the test session's with torch in it.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([seconds, peak]))
"""


def _enlarge(outputs):
    """Every session's requests.jsonl anew, with the timestamps of a day's work."""
    each = -(-TIMESTAMPS // (SESSIONS * len(CASES) * TOKENS))
    made = outputs / "requests.jsonl"
    for case in CASES:
        served, due = [], 0.0
        for number in range(each):
            times = [round(due + 0.1 + (0.01 + number * 1e-6) * index, 7) for index in range(TOKENS)]
            first = {"prefill_queued": due, "prefill_started": due, "prefill_finished": times[0]}
            served.append(timeline(times, request=f"{case}-{number}", scheduled=due, token_ids=[1] * TOKENS, **first))
            due = times[-1]
        store.append_lines(made, made_runs.lines(case, served))
    runs = [RunFiles(outputs, path.name) for path in outputs.glob("runs/*")]
    for files in runs:
        shutil.copy(made, files.requests)
    first = plain(made_runs.rehashed(runs[0]).summary("e0"), "summary")
    sent = {case["name"]: case["sent_sha256"] for case in first["cases"]}
    for files in runs[1:]:
        own = plain(files.summary("e0"), "summary") | {"requests_file": first["requests_file"]}
        own["cases"] = [case | {"sent_sha256": sent[case["name"]]} for case in own["cases"]]
        keep(files.summary("e0"), "summary", own)
    return SESSIONS * len(CASES) * each * TOKENS


def test_a_report_over_a_million_token_times_takes_seconds_and_no_gibibyte(tmp_path):
    """In a process of its own, whose peak is its own. Seconds of CPU: a busy machine takes no more of them.

    Writing the files is not counted; imports are not either.
    """
    made_runs.A_B(tmp_path, pairs=SESSIONS // 2, figures=dict.fromkeys(CASES, made_runs.FLAT[made_runs.CASE]))
    assert _enlarge(tmp_path) >= TIMESTAMPS
    told = subprocess.run(
        [sys.executable, "-c", REPORT, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert told.returncode == 0, told.stderr
    seconds, peak = json.loads(told.stdout)
    assert (tmp_path / "reports" / "ab1.md").is_file()
    assert seconds < BAR_S
    assert peak < BAR_BYTES
    print(f"{seconds:.1f} s, {peak / (1 << 20):.0f} MiB")
