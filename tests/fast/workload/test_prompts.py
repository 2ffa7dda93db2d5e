import hashlib
import os
import subprocess
import sys

import pytest

from context_research.models.capacity import Load
from context_research.workload.case import point
from context_research.workload.load import loads
from context_research.workload.prompts import RESERVED_IDS, beginnings, requests
from tests.support.settings import chosen
from tests.support.suite import ROOT

VOCABULARY = 16384
CASE = (256, 4)
"""Prompt tokens, in flight."""
WORKLOAD = chosen().workload


def made(case=CASE, workload=WORKLOAD, seed=0, experiment="e0", vocabulary=VOCABULARY, repeat=0):
    settings = chosen().model_copy(update={"workload": workload, "seed": seed, "experiment": experiment})
    return requests(point(settings, *case), vocabulary, repeat)


def prompts(**keywords):
    return [tuple(request.prompt) for request in made(**keywords)]


def digest(seed=0):
    return hashlib.sha256(repr([made(seed=seed, repeat=repeat) for repeat in (None, 0, 1)]).encode()).hexdigest()


@pytest.mark.parametrize("tokens", [1, 255, 256, 1024])
def test_prompts_have_exactly_the_tokens_asked_for(tokens):
    batch = made((tokens, 1))
    assert len(batch) == WORKLOAD.requests
    assert {len(request.prompt) for request in batch} == {tokens}
    assert {request.output_tokens for request in batch} == {WORKLOAD.output_tokens}


def test_the_warm_up_has_its_own_number_of_requests():
    assert len(made(repeat=None)) == WORKLOAD.warmup_requests
    assert made(workload=WORKLOAD.model_copy(update={"warmup_requests": 0}), repeat=None) == []


@pytest.mark.parametrize(("level", "ramp", "drain"), [(1, 0, 0), (2, 2, 1), (4, 4, 3)])
def test_more_than_one_in_flight_get_company_before_and_after(level, ramp, drain):
    phases = [request.phase for request in made((64, level))]
    assert phases == ["ramp"] * ramp + ["measured"] * WORKLOAD.requests + ["drain"] * drain


def test_beginnings_are_the_first_tokens_under_another_name():
    (first, *_), (whole, *_) = beginnings(made(), 0.5), made()
    assert (first.prompt, first.id) == (whole.prompt[:128], f"{whole.id}-prime")


def test_token_ids_are_plain_and_in_range():
    ids = [token for prompt in prompts(case=(4096, 1)) for token in prompt]
    assert {type(token) for token in ids} == {int}
    assert RESERVED_IDS <= min(ids) < RESERVED_IDS + 50
    assert VOCABULARY - 50 < max(ids) < VOCABULARY


@pytest.mark.parametrize("vocabulary", [2, RESERVED_IDS, RESERVED_IDS + 1])
def test_a_tiny_vocabulary_still_gives_valid_ids(vocabulary):
    assert all(0 <= token < vocabulary for prompt in prompts(vocabulary=vocabulary) for token in prompt)


def test_no_prompt_shares_its_first_block_with_any_other():
    cases = [(tokens, level) for tokens in (256, 1024) for level in (1, 4)]
    batches = [made(case, repeat=repeat) for case in cases for repeat in (None, 0, 1, 2)]
    blocks = [tuple(request.prompt[:16]) for batch in batches for request in batch]
    assert len(set(blocks)) == len(blocks) == 4 * 3 * WORKLOAD.requests + 2 * 3 * (4 + 3) + 4 * WORKLOAD.warmup_requests


def test_one_seed_gives_the_same_bytes_in_every_process():
    """Where hashes have another seed than here."""
    code = "from tests.fast.workload.test_prompts import digest; print(digest())"
    other = os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=other, text=True).strip() == digest()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"experiment": "e1"}, id="experiment"),
        pytest.param({"case": (256, 1)}, id="concurrency"),
        pytest.param({"repeat": 1}, id="repeat"),
        pytest.param({"repeat": None}, id="warm-up"),
    ],
)
def test_prompts_differ_by(other):
    assert not set(prompts()) & set(prompts(**other))


def test_a_longer_repeat_begins_like_a_shorter_one():
    """So the requests of a repeat depend on nothing but what names them."""
    fewer = WORKLOAD.model_copy(update={"requests": 5})
    assert prompts(workload=fewer) == prompts()[: 4 + 5 + 3]


@pytest.mark.parametrize(("asked", "measured"), [(3, 4), (4, 4), (5, 5)])
def test_at_least_as_many_are_measured_as_are_in_flight(asked, measured):
    phases = [request.phase for request in made(workload=WORKLOAD.model_copy(update={"requests": asked}))]
    assert phases == ["ramp"] * 4 + ["measured"] * measured + ["drain"] * 3


def test_serving_mode_and_other_cases_do_not_change_the_requests():
    alone = chosen("disaggregated", workload__prompt_lengths=[256], workload__concurrency=[4]).workload
    assert made(workload=alone) == made()


def test_requests_are_named_apart():
    batch = made() + made(repeat=1) + made(repeat=None) + made((256, 1))
    assert len({request.id for request in batch}) == len(batch)
    assert made()[3].id == "e0-p256-c4-repeat0-0003"


def test_sampling_seeds_are_a_requests_own_and_fit_64_bits():
    batch = [request for seed in range(20) for request in made(seed=seed)]
    assert len({request.seed for request in batch}) == len(batch)
    assert all(0 <= request.seed < 1 << 63 for request in batch)


def test_the_hash_is_the_same_where_everything_sent_is():
    assert [request.sha256 for request in made()] == [request.sha256 for request in made()]
    assert len({request.sha256 for request in made()}) == WORKLOAD.requests + 4 + 3


@pytest.mark.parametrize("change", [{"output_tokens": 99}, {"temperature": 0.5}], ids=["output", "temperature"])
def test_the_hash_covers_the_sampling(change):
    before, after = made()[0], made(workload=WORKLOAD.model_copy(update=change))[0]
    assert before.prompt == after.prompt
    assert before.sha256 != after.sha256


def test_the_hash_covers_every_token(monkeypatch):
    """The same random numbers but for the last token of a prompt."""
    import numpy as np

    before = made()[0]
    real = np.random.default_rng

    class Shifted:
        def __init__(self, seed):
            self._rng = real(seed)

        def integers(self, *arguments, **keywords):
            drawn = self._rng.integers(*arguments, **keywords)
            drawn[-1] ^= 1
            return drawn

    monkeypatch.setattr(np.random, "default_rng", Shifted)
    after = made()[0]
    assert before.prompt[:-1] == after.prompt[:-1]
    assert before.sha256 != after.sha256


def test_a_case_tells_its_load():
    case = point(chosen(), *CASE)
    assert loads(case) == [Load(256, WORKLOAD.output_tokens, 4)]
    assert case.name == "p256-c4"
