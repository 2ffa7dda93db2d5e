"""What UCX's own account says, on logs as UCX 1.20 writes them."""

import pytest

from context_research.measure.checks import kv_transport
from context_research.measure.checks.kv_transport import UNNAMED, Transport, copy_ceiling, seen
from tests.support.settings import chosen, placed

HEAD = "[1795451510.550856] [host:24623:0]   "


def table(title, *rows):
    lines = [
        "+------+",
        "| d3f02428 intra-node cfg#1 |",
        f"| {title} |",
        "+------+",
        "| Range | Description | Config |",
    ]
    return "".join(HEAD + line + "\n" for line in [*lines, "+------+", *rows, "+------+"])


def read(of, *rows):
    return table(f"remote memory read by ucp_get*(multi) into {of} memory from {of}", *rows)


SENDS = table("active message by ucp_am_send* from host memory", "|   0..inf | multi-frag copy-in | tcp/lo |")
CMA = read("host", "| 0..inf | zero-copy   | cma/memory     |")
TCP = read("host", "| 0..inf | software emulation | tcp/lo  |")
IPC = read("cuda", "| 0 | software emulation | tcp/lo |", "| 1..inf | zero-copy | cuda_ipc/cuda |")


@pytest.fixture
def named(tmp_path):
    def name(text, device="cpu"):
        log = tmp_path / "decode.log"
        log.write_text("INFO vLLM says something\n" + text)
        return seen([log], 10e9, device, placed(chosen("disaggregated", device), (0,)))

    return name


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch):
    monkeypatch.setattr("context_research.hardware.devices.visible_gpus", lambda: ["0"])
    for name in ("UCX_TLS", "UCX_NET_DEVICES", "UCX_CUDA_IPC_ENABLE_GET_ZCOPY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("log", "device", "name"),
    [
        (SENDS + CMA + SENDS, "cpu", "zero-copy over cma/memory"),
        (SENDS + IPC + CMA, "cuda", "zero-copy over cuda_ipc/cuda"),
        (CMA, "cuda", "zero-copy over cma/memory"),
    ],
)
def test_large_reads_name_the_transport(named, log, device, name):
    found = named(log, device)
    assert (found.name, found.cure) == (name, "")


@pytest.mark.parametrize("log", [SENDS, ""])
def test_a_transport_that_is_not_named_has_a_cure(named, log):
    found = named(log)
    assert found.name == UNNAMED
    assert "unset UCX_PROTO_INFO" in found.cure


def test_the_last_start_counts(named):
    assert named(TCP + CMA).name == "zero-copy over cma/memory"


@pytest.mark.parametrize(
    ("variables", "device", "cure"),
    [
        pytest.param({"UCX_TLS": "tcp"}, "cpu", "unset UCX_TLS=tcp", id="own setting"),
        pytest.param({}, "cpu", "SYS_PTRACE", id="container"),
        pytest.param({"UCX_CUDA_IPC_ENABLE_GET_ZCOPY": "off"}, "cuda", "GET_ZCOPY=on (it is off)", id="zcopy"),
        pytest.param({}, "cuda", "ucx_info -d", id="no cuda_ipc"),
    ],
)
def test_tcp_on_one_host_has_a_cure(named, monkeypatch, variables, device, cure):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = named(TCP, device)
    assert found.name == "software emulation over tcp/lo"
    assert cure in found.cure


def test_a_transfer_may_take_its_share_of_a_copy_and_a_step():
    assert Transport("x", 10e9).allowed_s(1_000_000_000) == pytest.approx(2.0 + 0.02)


def test_inside_one_gpu_the_floor_is_lower(named):
    assert named(IPC, "cuda").floor < named(CMA).floor


def test_a_copy_in_memory_is_measured():
    assert 1e8 < copy_ceiling("cpu", placed(chosen("disaggregated"), (0,))) < 1e12


def test_a_gpu_that_can_not_be_reached_is_told(monkeypatch, tmp_path):
    """As the copying process says it, which here is another one: torch takes seconds to import."""
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho 'Traceback …\nRuntimeError: no CUDA GPUs are available' >&2\nexit 1\n")
    fails.chmod(0o755)
    monkeypatch.setattr(kv_transport, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(kv_transport.sys, "executable", str(fails))
    told = "no copy between GPUs 0 and 0 could be measured: RuntimeError: no CUDA GPUs are available"
    with pytest.raises(kv_transport.EngineFailure, match=f"^{told}$"):
        kv_transport._gpu_copy(0, 0)
