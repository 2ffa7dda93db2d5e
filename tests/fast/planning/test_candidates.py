"""Which ways there are to use so many GPUs."""

from context_research.planning.candidates import series
from context_research.settings.schema import Settings
from tests.support.settings import chosen


def names(devices, heads=32, chunks=(2048,)):
    return [[each.name for each in some] for some in series(devices, chunks, heads)]


def test_replicas_share_the_gpus_out_and_splits_have_every_ratio():
    assert names(8) == [
        ["8x", "4x-tp2", "2x-tp4", "1x-tp8"],
        ["1p7d", "2p6d", "3p5d", "4p4d", "5p3d", "6p2d", "7p1d"],
    ]
    assert names(1) == [["1x"]]
    assert names(6) == [["6x", "3x-tp2"], ["1p5d", "2p4d", "3p3d", "4p2d", "5p1d"]]


def test_an_engine_has_whole_heads_on_each_gpu():
    assert names(8, heads=12)[0] == ["8x", "4x-tp2", "2x-tp4"]


def test_each_chunk_size_has_all_of_them():
    assert len(names(2, chunks=(2048, 8192))) == 4


def test_every_way_is_a_run_on_all_gpus():
    for some in series(4, [1024], 32):
        for each in some:
            settings = Settings.model_validate(each.settings(chosen(device="cuda")).model_dump())
            assert settings.devices == (0, 1, 2, 3)
            assert settings.engine.max_num_batched_tokens == 1024
            placed = [device for spec in settings.serving.engines for device in spec.devices]
            assert placed == [0, 1, 2, 3]
            assert (settings.serving.mode == "disaggregated") == ("p" in each.name and "tp" not in each.name)
