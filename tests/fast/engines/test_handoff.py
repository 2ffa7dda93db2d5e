import socket

import pytest

from context_research.engines.vllm.handoff import (
    PREFILL_PARAMETERS,
    PROGRESS_THREAD,
    HandoffProblem,
    connector,
    guarded,
)
from context_research.errors import EngineFailure
from context_research.settings.schema import Handoff

ANSWER = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_engine_id": "e",
    "remote_request_id": "r",
    "remote_block_ids": [[1, 2]],
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
    "something_new": {"of": "a later vLLM"},
}


def test_an_answer_is_passed_on_unread():
    assert guarded(ANSWER) == ANSWER
    assert guarded(ANSWER) is not ANSWER


def test_the_prefill_engines_prefix_hits_are_not_passed_on():
    answer = ANSWER | {"remote_prefill_cached_tokens": 16}
    assert guarded(answer) == ANSWER
    assert answer["remote_prefill_cached_tokens"] == 16


@pytest.mark.parametrize("key", [key for key in ANSWER if key.startswith("remote_")])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_an_answer_without_an_address_is_refused(key, how):
    answer = ANSWER | {key: None} if how == "null" else {k: v for k, v in ANSWER.items() if k != key}
    with pytest.raises(HandoffProblem, match=rf"lack {key}: decode would die or hang"):
        guarded(answer)


@pytest.mark.parametrize(
    "answer",
    [None, {}, ANSWER | {"do_remote_prefill": False}, {k: v for k, v in ANSWER.items() if k != "do_remote_prefill"}],
    ids=["none", "empty", "says-no", "does-not-say"],
)
def test_an_answer_without_kv_is_refused(answer):
    with pytest.raises(HandoffProblem, match="decode would recompute the whole prompt"):
        guarded(answer)


def test_a_handoff_problem_fails_the_request_as_an_engine_does():
    assert issubclass(HandoffProblem, EngineFailure)


def test_prefill_is_told_to_keep_its_kv():
    assert PREFILL_PARAMETERS["do_remote_decode"] is True
    assert PREFILL_PARAMETERS["do_remote_prefill"] is False


@pytest.mark.parametrize(("role", "kv_role"), [("prefill", "kv_producer"), ("decode", "kv_consumer")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_connector_follows_role_and_device(role, kv_role, device):
    arguments, environment = connector(Handoff(), role, device)
    expected = {
        "kv_connector": "NixlConnector",
        "kv_connector_module_path": "context_research.engines.vllm.nixl_connector",
        "kv_role": kv_role,
        "kv_load_failure_policy": "fail",
        "kv_connector_extra_config": {"backends": ["UCX"], PROGRESS_THREAD: device == "cuda"},
    }
    if device == "cpu":
        expected["kv_buffer_device"] = "cpu"
    assert arguments == expected
    assert (environment["UCX_PROTO_INFO"], environment["UCX_LOG_FILE"]) == ("y", "stderr")
    assert environment["VLLM_NIXL_SIDE_CHANNEL_HOST"].startswith("127.")


@pytest.mark.parametrize(
    ("thread", "device", "runs"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("on", "cpu", True), ("off", "cuda", False)],
)
def test_the_progress_thread_is_as_asked(thread, device, runs):
    arguments, _ = connector(Handoff(progress_thread=thread), "decode", device)
    assert arguments["kv_connector_extra_config"][PROGRESS_THREAD] is runs


def test_the_handoffs_settings_are_passed_on():
    handoff = Handoff(backends=("UCX", "GDS"), load_failure_policy="recompute", extra_config={"a.b": 1})
    arguments, _ = connector(handoff, "decode", "cuda")
    assert arguments["kv_load_failure_policy"] == "recompute"
    extra = arguments["kv_connector_extra_config"]
    assert extra == {"backends": ["UCX", "GDS"], PROGRESS_THREAD: True, "a.b": 1}


def _side_channels(count):
    made = [connector(Handoff(), "prefill", "cuda")[1] for _ in range(count)]
    return [(each["VLLM_NIXL_SIDE_CHANNEL_HOST"], int(each["VLLM_NIXL_SIDE_CHANNEL_PORT"])) for each in made]


def test_engines_answer_at_addresses_of_their_own_but_at_one_port_as_vllm_compiles_anew_for_another():
    side_channels = _side_channels(8)
    assert len({host for host, _ in side_channels}) == 8
    assert len({port for _, port in side_channels}) == 1
    with socket.socket() as probe:
        probe.bind(side_channels[0])


def test_where_the_port_is_taken_at_every_address_engines_get_ports_of_their_own(monkeypatch):
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        monkeypatch.setattr("context_research.engines.vllm.handoff._SIDE_CHANNEL_PORT", other.getsockname()[1])
        (first, second) = _side_channels(2)
    assert first[1] != second[1]
    with socket.socket() as probe:
        probe.bind(first)
