"""A trace of 12,000 requests of 12,000 tokens: read, and its requests drawn, in 10 s and 1 GiB."""

import json
import subprocess
import sys

import numpy as np

from tests.support.suite import ROOT

CODE = """
import resource, sys, time
from context_research.workload.case import cases
from context_research.workload.prompts import requests
from tests.support.settings import chosen
replay = {"arrivals": "replay", "trace__file": sys.argv[1], "prompt_lengths": [], "concurrency": [], "repeats": 1}
[case] = cases(chosen(**{f"workload__{key}": value for key, value in replay.items()}))
began = time.perf_counter()
batch = requests(case, 151_936, 0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(batch), sum(len(each.prompt) for each in batch), time.perf_counter() - began, peak)
"""


def test_a_large_trace_is_drawn_fast_and_in_little_memory(tmp_path):
    prompts = np.random.default_rng(0).integers(8_000, 16_000, size=12_000).tolist()
    lines = (
        {"timestamp": 300 * number, "input_length": tokens, "output_length": 343, "hash_ids": [0] * -(-tokens // 512)}
        for number, tokens in enumerate(prompts)
    )
    (tmp_path / "trace").write_text("\n".join(map(json.dumps, lines)))
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "trace")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    count, tokens, seconds, peak_kib = map(float, ended.stdout.split())
    assert (count, tokens) == (12_000, sum(prompts))
    assert seconds < 10
    assert peak_kib < 1 << 20
