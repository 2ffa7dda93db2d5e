"""What `fidelity` tells: tables for a terminal, Markdown and JSON under outputs/reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tabulate import tabulate

from context_research.compare import comparison
from context_research.fidelity import direction
from context_research.fidelity.fidelity import BARS, Fidelity, Pool
from context_research.hardware.manifest import vllm_version
from context_research.records import store
from context_research.records.fidelity import ArmRecord, CountsRecord, FidelityRecord, PartRecord, ProfileRecord
from context_research.report.tables import quantity, table

Table = tuple[tuple[str, ...], list[tuple[Any, ...]]]
"""Header and rows."""
_PERCENTILES = "A dash is a percentile with too few samples behind it (docs/metrics.md)."


def write(found: Fidelity) -> Path:
    """Write the Markdown and, beside it, the JSON; the Markdown's path."""
    path = found.outputs / "reports" / f"{found.name}.md"
    store.write(path.with_suffix(".json"), record(found))
    store.replace(path, _markdown(found))
    return path


def terminal(found: Fidelity) -> str:
    """Everything for a terminal, but the last line."""
    shown = [("error = simulated ÷ real − 1", _figures(found)), ("parts of TTFT, p50", _parts(found))]
    shown += [("candidate ÷ baseline of the p50s", _signs(found))] if found.signs else []
    tables = (f"{title}\n{tabulate(rows, head, disable_numparse=True)}" for title, (head, rows) in shown)
    return "\n\n".join((title(found), "\n".join((_profile(found), *_notes(found))), *tables))


def title(found: Fidelity) -> str:
    """What was held against what."""
    first = found.runs[0]
    run = first.metadata
    return f"SIMULATED against real: {run.experiment}, {run.model.label} ({run.setting('model.dtype')})"


def last_line(found: Fidelity) -> str:
    """The counts."""
    told = [figure.passed for figure in found.figures]
    kind = "in-sample" if found.in_sample else "not held out" if found.seen else "held out"
    parts = [f"{told.count(True)} of {len(told) - told.count(None)} figures within the bars ({kind})"]
    if none := told.count(None):
        parts.append(f"{none} with too few samples")
    if found.signs:
        counts = direction.counted(list(found.signs))
        parts.append(f"sign right in {counts['agree']} of {counts['decided']} decided differences")
        parts += [f"{counts['undecided']} undecided"] if counts["undecided"] else []
    return "; ".join(parts)


def record(found: Fidelity) -> FidelityRecord:
    """The report as data."""
    first = found.runs[0].metadata
    return FidelityRecord(
        experiment=first.experiment,
        device=first.device,
        model=first.model,
        versions=_versions(found),
        profile=ProfileRecord(
            name=found.profile.name,
            calibrated=found.profile.calibrated,
            fitted_on=found.fitted_on,
            provenance=found.profile.provenance,
        ),
        in_sample=found.in_sample,
        seen=tuple(found.seen),
        extrapolated_share=found.extrapolated_share,
        arms=tuple(_arm(pool) for pool in found.pools),
        figures=tuple(figure.record() for figure in found.figures),
        waterfall=tuple(PartRecord(**asdict(part)) for part in found.parts),
        signs=tuple(sign.record() for sign in found.signs),
        no_signs=found.unsigned or None,
        counts=CountsRecord(
            figures=len(found.figures),
            passed=sum(figure.passed is True for figure in found.figures),
            missed=len(found.missed),
            signs=dict(direction.counted(list(found.signs))),
        ),
    )


def _arm(pool: Pool) -> ArmRecord:
    return ArmRecord(
        label=pool.label,
        runs=tuple(run.files.run_id for run in pool.runs),
        seeds=tuple(run.metadata.seed for run in pool.runs),
        steps=pool.steps,
        extrapolated=pool.extrapolated,
        step_times=pool.step_times,
    )


def _markdown(found: Fidelity) -> str:
    bars = ", ".join(f"{metric} {statistic} ≤ {bar:.0%}" for (metric, statistic), bar in BARS.items())
    runs = [(pool.label, run.metadata.seed, run.files.run_id) for pool in found.pools for run in pool.runs]
    sections = [
        f"# {title(found)}",
        f"**{last_line(found)}.**",
        "\n".join(f"- {line}" for line in (_profile(found), *_notes(found), _versions_line(found))),
        f"## Errors\n\nsimulated ÷ real − 1, all samples of an arm's runs together. Bars, either way, for held-out "
        f"cases on two CPU cores: {bars}. {_PERCENTILES}\n\n{_md(_figures(found))}",
        f"## Where time to first token goes\n\np50 of each part: they don't add up. Share: the difference, of the real "
        f"TTFT's p50. {_PERCENTILES}\n\n{_md(_parts(found))}",
        f"## Signs\n\n{_md(_signs(found)) if found.signs else f'None: {found.unsigned}.'}",
        f"## Runs\n\n{table(runs, ('arm', 'seed', 'run'))}",
        "## Device profile\n\n" + "\n".join(f"- {what}: {told}" for what, told in found.profile.provenance.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _md(shown: Table) -> str:
    return table(shown[1], shown[0])


def _profile(found: Fidelity) -> str:
    fitted = f"calibrated on {', '.join(found.fitted_on)}" if found.profile.calibrated else "NOT calibrated"
    source = found.profile.step_time.source
    return (
        f"device profile {found.profile.name}: step times by {source}, {fitted}; "
        f"{found.extrapolated_share:.1%} of the steps extrapolated"
    )


def _notes(found: Fidelity) -> list[str]:
    if found.in_sample:
        notes = ["in-sample: the profile was fitted on these very runs, so this tells how well it fits, not predicts"]
    elif found.seen:
        notes = [f"WARNING: not held out: the profile was fitted on {', '.join(found.seen)}"]
    else:
        notes = []
    return notes + ([f"no signs: {found.unsigned}"] if found.unsigned else [])


def _versions(found: Fidelity) -> dict[str, str | None]:
    used = {steps.package for pool in found.pools for steps in pool.step_times if steps.package}
    return {
        "vllm": comparison.facts(found.runs[0])["vllm"],
        "vllm_simulating": vllm_version(),
        "aiconfigurator": ", ".join(sorted(used)) or None,
    }


def _versions_line(found: Fidelity) -> str:
    versions = _versions(found)
    told = f"vLLM {versions['vllm']}, its scheduler in the simulation {versions['vllm_simulating']}"
    return told + (f"; {versions['aiconfigurator']}" if versions["aiconfigurator"] else "")


def _figures(found: Fidelity) -> Table:
    words = {True: "pass", False: "MISS", None: "–"}
    header = ("arm", "case", "figure", "samples", "real", "simulated", "error", "bar", "")
    return header, [
        (
            figure.arm,
            figure.case,
            f"{figure.metric} {figure.statistic}",
            figure.count,
            quantity(figure.real, "s"),
            quantity(figure.simulated, "s"),
            _percent(figure.error),
            f"{figure.bar:.0%}",
            words[figure.passed],
        )
        for figure in found.figures
    ]


def _parts(found: Fidelity) -> Table:
    ttft = {(f.arm, f.case): f.real for f in found.figures if (f.metric, f.statistic) == ("ttft", "p50")}
    header = ("arm", "case", "part", "real", "simulated", "difference", "share of TTFT")
    rows = []
    for part in found.parts:
        whole, known = ttft[part.arm, part.case], part.real is not None and part.simulated is not None
        difference = (part.simulated or 0.0) - (part.real or 0.0) if known else None
        share = difference / whole if difference is not None and whole else None
        values: Sequence[float | None] = (part.real, part.simulated, difference)
        rows.append((part.arm, part.case, part.part, *(quantity(v, "s") for v in values), _percent(share)))
    return header, rows


def _signs(found: Fidelity) -> Table:
    header = ("case", "figure", "candidate ÷ baseline", "real", "simulated", "real says", "sign", "by")
    words = {True: "agrees", False: "DIFFERS", None: "–"}
    rows = []
    for sign in found.signs:
        ratios = ("–" if value is None else f"{value:.3f}" for value in (sign.real, sign.simulated))
        told = words[sign.agrees if sign.agrees is not None else sign.same_sign]
        told = f"({told.lower()})" if sign.agrees is None and sign.same_sign is not None else told
        arms = f"{sign.candidate} ÷ {sign.baseline}"
        rows.append((sign.case, f"{sign.metric} p50", arms, *ratios, sign.outcome, told, sign.how))
    return header, rows


def _percent(share: float | None) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{share:+.1%}"
