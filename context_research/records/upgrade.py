"""Reads what earlier versions wrote: plain data of version 1 in, of today's version out. Nothing else knows of them.

Version 1, to 2026-11-27: a case's axes were called `params`; a request had its two legs' moments as fields of its own;
a repeat's window, devices, SLO and transfers were in no file; rates were first counted in the window, whose repeats
have no `steady_seconds`: those figures are left out here, as they mean something else.

Version 2, to 2026-11-28: an A/B had two arms, `baseline` and `candidate`; p was the sign flips'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from context_research.records.base import JsonObject

Plain = dict[str, Any]
"""What a JSON file of an earlier version holds."""
_COUNTED_IN_WINDOW = ("output_token_time", "goodput")
_MOVED = {"context_research.serving.nixl": "context_research.engines.vllm.nixl_connector"}
"""Classes that settings name: where they were, and where they are."""


def artifact(kind: str, plain: Any) -> Any:
    """A whole file's data as today's version has it; `kind` is the name of its record's class."""
    if not isinstance(plain, dict):
        return plain
    for version, upgrades in _UPGRADES.items():
        if plain.get("schema_version") == version:
            plain = upgrades.get(kind, lambda each: each)(plain) | {"schema_version": version + 1}
    return plain


def request_line(plain: Any) -> Any:
    """One line of requests.jsonl."""
    if not isinstance(plain, dict) or "kind" in plain:
        return plain
    kept = ("case", "request", "prompt_sha256", "repeat", "phase", "scheduled", "prompt_tokens", "output_tokens_asked")
    more = ("token_times", "token_ids", "error")
    return {name: plain[name] for name in (*kept, *more)} | {
        "kind": "request",
        "legs": legs(plain),
        "waterfall": plain.get("waterfall"),
    }


def legs(flat: Plain) -> list[Plain]:
    """A request's legs from version 1's fields."""
    first = {
        "engine": flat.get("prefill_engine") or "prefill",
        "role": "prefill",
        "sent": flat["sent"],
        "queued": flat.get("prefill_queued"),
        "started": flat.get("prefill_started"),
        "first_token": flat.get("prefill_finished"),
        "read_started": None,
        "read_finished": None,
        "cached_tokens": flat.get("prefill_cached_tokens"),
        "finish_reason": None,
    }
    split = flat.get("decode_sent") is not None or flat.get("decode_cached_tokens") is not None
    if not split and flat.get("decode_engine") == flat.get("prefill_engine"):
        name = flat.get("prefill_engine") or "aggregated"
        return [first | {"engine": name, "role": "aggregated", "finish_reason": flat.get("finish_reason")}]
    if not split:  # it never came to decode
        return [first]
    second = {
        "engine": flat.get("decode_engine") or "decode",
        "role": "decode",
        "sent": flat.get("decode_sent"),
        "queued": flat.get("decode_queued"),
        "started": flat.get("decode_started"),
        "first_token": flat.get("decode_first_token"),
        "read_started": flat.get("handoff_started"),
        "read_finished": flat.get("handoff_finished"),
        "cached_tokens": flat.get("decode_cached_tokens"),
        "finish_reason": flat.get("finish_reason"),
    }
    return [first, second]


def _run(plain: JsonObject) -> JsonObject:
    serving = plain["settings"].get("serving") if isinstance(plain["settings"], dict) else None
    handoff = serving.get("handoff") if isinstance(serving, dict) else None
    if isinstance(handoff, dict) and isinstance(module := handoff.get("connector_module"), str):
        handoff["connector_module"] = _MOVED.get(module, module)
    return plain


def _summary(plain: Plain) -> Plain:
    return plain | {"cases": [_case(case) for case in plain["cases"]]}


def _case(case: Plain) -> Plain:
    case = {"axes" if key == "params" else key: value for key, value in case.items()}
    repeats = [{"steady_seconds": None, "metrics": {}} | repeat for repeat in case.get("repeats", ())]
    if any(repeat["steady_seconds"] is None for repeat in repeats):
        repeats = [repeat | {"metrics": _steady(repeat["metrics"])} for repeat in repeats]
        case |= {"metrics": _steady(case["metrics"])}
        if whole := case.get("whole"):
            case |= {"whole": whole | {"metrics": _steady(whole["metrics"])}}
    return case | {"repeats": repeats}


def _steady(metrics: Plain) -> Plain:
    return {name: metric for name, metric in metrics.items() if name not in _COUNTED_IN_WINDOW}


def _ab(plain: Plain) -> Plain:
    # Experiments were in benchmarks/ alone.
    return plain | {"plan": {"folder": f"benchmarks/{plain['plan']['experiment']}"} | plain["plan"]}


def _arms(plain: Plain) -> Plain:
    plan = dict(plain["plan"])
    plan |= {"arms": {arm: plan.pop(arm) for arm in _TWO_ARMS}, "against": _TWO_ARMS[0]}
    return plain | {"plan": plan}


def _verdict(plain: Plain) -> Plain:
    plain = dict(plain)
    plain["sides"] = [{"arm": arm} | plain.pop(arm) for arm in _TWO_ARMS]
    return plain | {part: [_pairs(one) for one in plain[part]] for part in ("primary", "descriptive")}


def _pairs(plain: Plain) -> Plain:
    later = {"p": None, "p_equivalent": None, "p_equivalent_adjusted": None, "fragile": ""}
    return {"arm": _TWO_ARMS[1]} | plain | later | {"p_sign_flip": plain["p"]}


_TWO_ARMS = ("baseline", "candidate")
_UPGRADES: dict[int, dict[str, Callable[[Any], Any]]] = {
    1: {"RunRecord": _run, "SummaryRecord": _summary, "AbRecord": _ab},
    2: {"AbRecord": _arms, "VerdictRecord": _verdict},
}
"""Version -> a record's class -> what makes its data the next version's."""
