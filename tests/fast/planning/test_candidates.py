"""Which ways there are to use so many GPUs."""

from context_research.planning.candidates import series
from context_research.settings.schema import Settings
from tests.support.settings import chosen


def names(devices, heads=32):
    return [each.name for [each] in series(devices, [2048], heads)]


def test_replicas_share_the_gpus_out_and_splits_have_every_ratio():
    splits = ["1p7d", "2p6d", "3p5d", "4p4d", "5p3d", "6p2d", "7p1d"]
    assert names(8) == ["8x", "4x-tp2", "2x-tp4", "1x-tp8", *splits]
    assert names(1) == ["1x"]
    assert names(6) == ["6x", "3x-tp2", "1p5d", "2p4d", "3p3d", "4p2d", "5p1d"]


def test_an_engine_has_whole_heads_on_each_gpu():
    assert names(8, heads=12)[:4] == ["8x", "4x-tp2", "2x-tp4", "1p7d"]


def test_each_topology_has_every_chunk_size():
    assert [[each.chunk for each in some] for some in series(2, [2048, 8192], 32)] == [[2048, 8192]] * 3


def test_every_way_is_a_run_on_all_gpus():
    for some in series(4, [1024], 32):
        for each in some:
            settings = Settings.model_validate(each.settings(chosen(device="cuda")).model_dump())
            assert settings.devices == (0, 1, 2, 3)
            assert settings.engine.max_num_batched_tokens == 1024
            assert each.devices == 4
            placed = [device for spec in settings.serving.engines for device in spec.devices]
            assert placed == [0, 1, 2, 3]
            assert (settings.serving.mode == "disaggregated") == ("p" in each.name and "tp" not in each.name)
