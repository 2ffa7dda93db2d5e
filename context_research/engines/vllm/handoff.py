"""The KV handoff over NIXL: connector settings for both engines, and the guards around one request's parameters.

What a connector does with wrong parameters is seldom an error (see docs/how-it-works.md): it recomputes the prompt in
silence, kills the decode engine, hangs, or serves another request's KV. So parameters are checked before decode gets
them, and every request has a timeout.
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import TypeAlias

from context_research.engines.base import KvParameters
from context_research.errors import EngineFailure
from context_research.settings.schema import Device, Handoff

PREFILL_PARAMETERS: KvParameters = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""kv_transfer_params of the prefill leg: keep the KV, and say where it is."""
UCX_TELLS = {"UCX_PROTO_INFO": "y", "UCX_LOG_FILE": "stderr"}
"""UCX then writes into the engine's log which transport each protocol takes. Not to stdout: that is buffered, and lost.
Yours win."""
PROGRESS_THREAD = "context_research_progress_thread"
"""Key in kv_connector_extra_config: False has our connector (nixl.py) turn NIXL's progress thread off."""
_HOST, _PORT = "VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT"
_SIDE_CHANNEL_PORT = 5600
"""vLLM's default."""
_ADDRESSES_TRIED = 4
_KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}
_NEEDED = ("remote_engine_id", "remote_request_id", "remote_block_ids", "remote_host", "remote_port")


class HandoffProblem(EngineFailure):
    """The prefill engine's answer can't be handed to decode."""


Connector: TypeAlias = tuple[dict[str, object], dict[str, str]]
"""What a handoff adds to an engine: keyword arguments of vLLM's KVTransferConfig, and environment variables."""


def connector(handoff: Handoff, role: str, device: Device) -> Connector:
    """Keyword arguments of vLLM's KVTransferConfig, and environment variables, for the engine of `role`."""
    arguments: dict[str, object] = {
        "kv_connector": handoff.connector,
        "kv_connector_module_path": handoff.connector_module,
        "kv_role": _KV_ROLES[role],
        "kv_load_failure_policy": handoff.load_failure_policy,
        "kv_connector_extra_config": {
            "backends": list(handoff.backends),
            PROGRESS_THREAD: has_progress_thread(handoff, device),
            **handoff.extra_config,
        },
    }
    if device == "cpu":
        arguments["kv_buffer_device"] = "cpu"
    environment = {
        **_side_channel(),
        **{name: os.environ.get(name, value) for name, value in UCX_TELLS.items()},
    }
    if device == "cuda":
        # Else UCX reads over TCP between two engines on one GPU, 0.5 GB/s instead of tens. Yours wins.
        environment["UCX_CUDA_IPC_ENABLE_GET_ZCOPY"] = os.environ.get("UCX_CUDA_IPC_ENABLE_GET_ZCOPY", "on")
    return arguments, environment


def has_progress_thread(handoff: Handoff, device: Device) -> bool:
    """Whether NIXL moves KV by a thread of its own; without it, between an engine's steps."""
    return handoff.progress_thread == "on" or (handoff.progress_thread == "auto" and device == "cuda")


def guarded(answer: KvParameters | None) -> dict[str, object]:
    """kv_transfer_params for the decode leg from the prefill leg's answer, passed on unread but for the guards.

    Raises HandoffProblem where decode would recompute the prompt in silence, die or hang.
    """
    if not answer or not answer.get("do_remote_prefill"):
        raise HandoffProblem("the prefill engine returned no KV to hand over: decode would recompute the whole prompt")
    if missing := [key for key in _NEEDED if answer.get(key) is None]:
        raise HandoffProblem(
            f"the prefill engine's kv_transfer_params lack {', '.join(missing)}: decode would die or hang"
        )
    # Else decode reports the prefill engine's prefix hits as its own.
    return {key: value for key, value in answer.items() if key != "remote_prefill_cached_tokens"}


def _side_channel() -> dict[str, str]:
    """Where an engine answers the other's handshake: a free loopback address of its own, at one port for all engines.

    The port is in vLLM's key of what torch.compile made, the address is not: with a port of its own, every engine
    compiled at every start, 26 s and 15 s more of Triton kernels on an H200 (docs/handoff.md).
    """
    for _ in range(_ADDRESSES_TRIED):
        host = f"127.{secrets.randbelow(255)}.{secrets.randbelow(255)}.{2 + secrets.randbelow(250)}"
        if _free(host, _SIDE_CHANNEL_PORT):
            return {_HOST: host, _PORT: str(_SIDE_CHANNEL_PORT)}
    with socket.socket() as probe:  # somebody listens at that port of every address
        probe.bind(("127.0.0.1", 0))
        return {_HOST: "127.0.0.1", _PORT: str(probe.getsockname()[1])}


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
