import pytest

from context_research.engines.base import Counters
from context_research.engines.vllm import stats


def counted():
    return Counters(
        prompt_computed=10,
        prompt_cached=20,
        prompt_external=30,
        generated=40,
        preemptions=1,
        kv_usage_max=0.5,
        cache_queries=50,
        cache_hits=20,
        transfers=[(0.1, 100)],
        reads=[("a", 1.0, 2.0)],
        faults={"num_failed_transfers": 1, "num_expired": 2},
    )


def test_a_snapshot_stays_as_it_was():
    counters = counted()
    before = counters.snapshot()
    assert before == counted()
    counters.generated += 1
    counters.transfers.append((0.2, 200))
    counters.faults["num_failed_transfers"] += 1
    assert before == counted()


def test_since_counts_what_came_after():
    counters = counted()
    before = counters.snapshot()
    counters.prompt_computed += 1
    counters.prompt_cached += 2
    counters.prompt_external += 3
    counters.generated += 4
    counters.preemptions += 5
    counters.cache_queries += 6
    counters.cache_hits += 7
    counters.kv_usage_max = 0.75
    counters.reads.append(("b", 3.0, 4.0))
    counters.transfers += [(0.2, 200), (0.3, 300)]
    counters.faults |= {"num_expired": 5, "num_new": 1}
    assert counters.since(before) == Counters(
        prompt_computed=1,
        prompt_cached=2,
        prompt_external=3,
        generated=4,
        preemptions=5,
        cache_queries=6,
        cache_hits=7,
        kv_usage_max=0.75,
        reads=[("b", 3.0, 4.0)],
        transfers=[(0.2, 200), (0.3, 300)],
        faults={"num_expired": 3, "num_new": 1},
    )


def test_since_a_moment_ago_is_nothing():
    counters = counted()
    assert counters.since(counters.snapshot()) == Counters(kv_usage_max=0.5)


def test_transfers_and_faults_are_counted_from_the_connectors_records():
    counters = Counters()
    step = {"transfer_duration": [0.1, 0.2], "bytes_transferred": [100, 200], "num_descriptors": [8, 8]}
    stats._count_transfers(counters, step | {"num_failed_transfers": [], "post_duration": [0.01, 0.02]})
    stats._count_transfers(counters, {"num_failed_transfers": [1, 1], "num_kv_expired_reqs": [1]})
    stats._count_transfers(counters, {"num_failed_transfers": [1]})
    assert counters.transfers == [(0.1, 100), (0.2, 200)]
    assert counters.faults == {"num_failed_transfers": 3, "num_kv_expired_reqs": 1}


def test_reads_come_from_our_connector():
    counters = Counters()
    stats._count_transfers(counters, {stats.READS: [("a-1", 1.0, 2.0)]})
    assert counters.reads == [("a-1", 1.0, 2.0)]


def test_records_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="zip"):
        stats._count_transfers(Counters(), {"transfer_duration": [0.1], "bytes_transferred": []})
