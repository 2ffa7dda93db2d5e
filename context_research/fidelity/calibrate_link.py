"""What lies between the engines and the client of a device profile: the link of two engines, and the client's share.

Both are lines over a request's size, seen where one request is in flight at a time. What runs can't say is taken from
a base profile: of one size alone its line is scaled whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from context_research.engines.simulated.profiles import Client, DeviceProfile, Link, descriptors
from context_research.engines.vllm.handoff import has_progress_thread
from context_research.errors import UsageProblem
from context_research.fidelity.calibration_data import FEWEST, Measured
from context_research.fidelity.fit import Array, Fitted, fit

Part = TypeVar("Part", Link, Client)


def link(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Link, str]:
    """The link, and what it rests on: KV reads with nothing else in flight, seconds by bytes. Raises UsageProblem.

    How many descriptors a read has grows with its bytes at one block size. So what is dearer than the base's copy is
    put down to the descriptors, and without a base to the bytes.
    """
    reads = [
        (run, _in_blocks(request.prompt_tokens, run), request.handoff_finished - request.handoff_started)
        for run in runs
        for request in run.requests
        if request.handoff_started is not None and request.handoff_finished is not None
    ]
    if not reads:
        if base is None:
            raise UsageProblem(
                "no run among these handed KV over with one request in flight: add a disaggregated one, or take the "
                "link from a profile (--device-profile)"
            )
        return base.link, _from_base(base, "link")
    tokens = np.array([size for _, size, _ in reads], dtype=float)
    fitted, latency, by_token = _line(tokens, np.array([seconds for *_, seconds in reads]))
    run, size, _ = reads[0]
    basis = f"{len(reads)} KV reads with one request in flight, block size {run.block_tokens}: {fitted}"
    if base is not None and np.ptp(tokens) == 0:
        return _link_of_one_size(base, run, size, latency, basis)
    copy = run.model.kv_bytes_per_token / base.link.bandwidth_of(_on_one_device(run)) if base else np.inf
    if base is not None and by_token > copy:
        dearer = (by_token - copy) * run.block_tokens / descriptors(run.model, run.block_tokens, run.block_tokens)
        by_descriptor = base.link.model_copy(update={"latency_s": latency, "descriptor_s": dearer})
        return by_descriptor, f"{basis}; the bandwidth is from {_from_base(base, 'link')}"
    # Without a slope to be seen all of it is latency, and a bandwidth is still needed.
    by_token = by_token if by_token > 0 else latency / tokens.max()
    between = any(_between_steps(run) for run, *_ in reads)
    by_bytes = Link(latency_s=latency, bandwidth=run.model.kv_bytes_per_token / by_token, between_steps=between)
    return by_bytes, f"{basis}; the descriptors' cost is in the bandwidth"


def client(runs: Sequence[Measured], base: DeviceProfile | None) -> tuple[Client, str]:
    """The client's share, and what it rests on: requests that were alone in flight."""
    alone = [request for run in runs for request in run.requests]
    submit = [(each.prompt_tokens, each.prefill_queued - each.sent) for each in alone if each.prefill_queued]
    ends = [(each.token_times[0], each.decode_first_token or each.prefill_finished) for each in alone]
    deliver = [float(at_client - at_engine) for at_client, at_engine in ends if at_engine is not None]
    if min(len(submit), len(deliver)) < FEWEST:
        if base is None:
            return Client(), "not measured (no case with one request in flight): taken as nothing"
        return base.client, _from_base(base, "client")
    # A clock's last digit may be all there is between two moments.
    tokens, waits = np.array(submit, dtype=float).T
    fitted, constant, by_token = _line(tokens, np.maximum(waits, 1e-7))
    _, delivered, _ = _line(np.zeros(len(deliver)), np.maximum(deliver, 1e-7))
    basis = f"{len(submit)} requests alone in flight, submit: {fitted}"
    if base is not None and np.ptp(tokens) == 0 and (by_base := base.client.to_engine_s(tokens[0])):
        factor = constant / by_base
        scaled = _times(base.client, {"submit_s": factor, "submit_token_s": factor})
        return scaled.model_copy(update={"deliver_s": delivered}), _scaled_base(basis, factor, base, "client")
    return Client(submit_s=constant, submit_token_s=by_token, deliver_s=delivered), basis


def _link_of_one_size(base: DeviceProfile, run: Measured, tokens: int, seconds: float, basis: str) -> tuple[Link, str]:
    """Of one size alone no slope can be seen: the base's line, all of it dearer or cheaper."""
    pieces = descriptors(run.model, tokens, run.block_tokens)
    size = tokens * run.model.kv_bytes_per_token
    factor = seconds / base.link.seconds(size, pieces, same_device=_on_one_device(run))
    costs = {"latency_s": factor, "descriptor_s": factor, "bandwidth": 1 / factor}
    if base.link.same_device_bandwidth is not None:
        costs["same_device_bandwidth"] = 1 / factor
    return _times(base.link, costs), _scaled_base(basis, factor, base, "link")


def _in_blocks(tokens: int, run: Measured) -> int:
    """KV is read in whole blocks."""
    return -(-tokens // run.block_tokens) * run.block_tokens


def _on_one_device(run: Measured) -> bool:
    engines = [set(steps.engine.devices) for steps in run.engines]
    return run.settings.device == "cuda" and bool(set.intersection(*engines))


def _between_steps(run: Measured) -> bool:
    """Whether a read goes on only between two steps of the engine that is read from."""
    handoff = run.settings.serving.handoff
    return handoff is not None and not has_progress_thread(handoff, run.settings.device)


def _line(sizes: Array, seconds: Array) -> tuple[Fitted, float, float]:
    """The fit, its constant and its slope, both ≥ 0. Of one size alone only the constant can be seen."""
    slope = sizes if np.ptp(sizes) > 0 else np.zeros_like(sizes)
    fitted = fit(np.column_stack([np.ones_like(sizes), slope]), seconds)
    constant, by_size = map(float, fitted.coefficients)
    return fitted, constant, by_size


def _times(part: Part, factors: Mapping[str, float]) -> Part:
    """`part` with these of its numbers multiplied."""
    return part.model_copy(update={name: getattr(part, name) * factor for name, factor in factors.items()})


def _scaled_base(basis: str, factor: float, base: DeviceProfile, what: str) -> str:
    return f"{basis}; all of one prompt length, so {factor:.3g} × {_from_base(base, what)}"


def _from_base(base: DeviceProfile, what: str) -> str:
    return f"device profile {base.name}: {base.provenance.get(what, 'not said')}"
