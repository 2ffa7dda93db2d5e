"""The report of `fidelity`: tables for a terminal, Markdown and JSON under outputs/reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from context_research.compare import comparison
from context_research.fidelity import direction
from context_research.fidelity.fidelity import BARS, Fidelity, Pool
from context_research.hardware.manifest import vllm_version
from context_research.records import store
from context_research.records.fidelity import ArmRecord, CountsRecord, FidelityRecord, ProfileRecord
from context_research.records.files import report_of
from context_research.report.tables import quantity, table

Table = tuple[tuple[str, ...], Sequence[tuple[object, ...]]]
"""Header and rows."""
_PERCENTILES = "A dash is a percentile with too few samples behind it (docs/metrics.md)."


def write(fidelity: Fidelity) -> Path:
    """Write the Markdown and, beside it, the JSON; the Markdown's path."""
    path = report_of(fidelity.outputs, fidelity.name)
    store.write(path.with_suffix(".json"), record(fidelity))
    store.replace(path, _markdown(fidelity))
    return path


def terminal(fidelity: Fidelity) -> str:
    """Everything for a terminal, but the last line."""
    shown = [("error = simulated ÷ real − 1", _figures(fidelity)), ("parts of TTFT, p50", _parts(fidelity))]
    shown += [("candidate ÷ baseline of the p50s", _signs(fidelity))] if fidelity.signs else []
    tables = (f"{title}\n{tabulate(rows, head, disable_numparse=True)}" for title, (head, rows) in shown)
    return "\n\n".join((title(fidelity), "\n".join((_profile(fidelity), *_notes(fidelity))), *tables))


def title(fidelity: Fidelity) -> str:
    """What was held against what."""
    first = fidelity.runs[0]
    run = first.metadata
    return f"SIMULATED against real: {run.experiment}, {run.model.label} ({run.setting('model.dtype')})"


def last_line(fidelity: Fidelity) -> str:
    """The counts."""
    passed = [figure.passed for figure in fidelity.figures]
    kind = "in-sample" if fidelity.in_sample else "not held out" if fidelity.seen else "held out"
    parts = [f"{passed.count(True)} of {len(passed) - passed.count(None)} figures within the bars ({kind})"]
    if none := passed.count(None):
        parts.append(f"{none} with too few samples")
    if fidelity.signs:
        counts = direction.counted(fidelity.signs)
        parts.append(f"sign right in {counts['agree']} of {counts['decided']} decided differences")
        parts += [f"{counts['undecided']} undecided"] if counts["undecided"] else []
    return "; ".join(parts)


def record(fidelity: Fidelity) -> FidelityRecord:
    """The report as data."""
    first = fidelity.runs[0].metadata
    return FidelityRecord(
        experiment=first.experiment,
        device=first.device,
        model=first.model,
        versions=_versions(fidelity),
        profile=ProfileRecord(
            name=fidelity.profile.name,
            calibrated=fidelity.profile.calibrated,
            fitted_on=fidelity.fitted_on,
            provenance=fidelity.profile.provenance,
        ),
        in_sample=fidelity.in_sample,
        seen=tuple(fidelity.seen),
        extrapolated_share=fidelity.extrapolated_share,
        arms=tuple(_arm(pool) for pool in fidelity.pools),
        figures=fidelity.figures,
        waterfall=fidelity.parts,
        signs=fidelity.signs,
        no_signs=fidelity.unsigned or None,
        counts=CountsRecord(
            figures=len(fidelity.figures),
            passed=sum(figure.passed is True for figure in fidelity.figures),
            missed=len(fidelity.missed),
            signs=dict(direction.counted(fidelity.signs)),
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


def _markdown(fidelity: Fidelity) -> str:
    bars = ", ".join(f"{metric} {statistic} ≤ {bar:.0%}" for (metric, statistic), bar in BARS.items())
    runs = [(pool.label, run.metadata.seed, run.files.run_id) for pool in fidelity.pools for run in pool.runs]
    sections = [
        f"# {title(fidelity)}",
        f"**{last_line(fidelity)}.**",
        "\n".join(f"- {line}" for line in (_profile(fidelity), *_notes(fidelity), _versions_line(fidelity))),
        f"## Errors\n\nsimulated ÷ real − 1, all samples of an arm's runs together. Bars, either way, for held-out "
        f"cases on two CPU cores: {bars}. {_PERCENTILES}\n\n{_md(_figures(fidelity))}",
        f"## Where time to first token goes\n\np50 of each part: they don't add up. Share: the difference, of the real "
        f"TTFT's p50. {_PERCENTILES}\n\n{_md(_parts(fidelity))}",
        f"## Signs\n\n{_md(_signs(fidelity)) if fidelity.signs else f'None: {fidelity.unsigned}.'}",
        f"## Runs\n\n{table(runs, ('arm', 'seed', 'run'))}",
        "## Device profile\n\n"
        + "\n".join(f"- {what}: {basis}" for what, basis in fidelity.profile.provenance.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _md(shown: Table) -> str:
    return table(shown[1], shown[0])


def _profile(fidelity: Fidelity) -> str:
    fitted = f"calibrated on {', '.join(fidelity.fitted_on)}" if fidelity.profile.calibrated else "NOT calibrated"
    source = fidelity.profile.step_time.source
    return (
        f"device profile {fidelity.profile.name}: step times by {source}, {fitted}; "
        f"{fidelity.extrapolated_share:.1%} of the steps extrapolated"
    )


def _notes(fidelity: Fidelity) -> list[str]:
    if fidelity.in_sample:
        notes = ["in-sample: the profile was fitted on these very runs, so this tells how well it fits, not predicts"]
    elif fidelity.seen:
        notes = [f"WARNING: not held out: the profile was fitted on {', '.join(fidelity.seen)}"]
    else:
        notes = []
    return notes + ([f"no signs: {fidelity.unsigned}"] if fidelity.unsigned else [])


def _versions(fidelity: Fidelity) -> dict[str, str | None]:
    used = {steps.package for pool in fidelity.pools for steps in pool.step_times if steps.package}
    return {
        "vllm": comparison.facts(fidelity.runs[0])["vllm"],
        "vllm_simulating": vllm_version(),
        "aiconfigurator": ", ".join(sorted(used)) or None,
    }


def _versions_line(fidelity: Fidelity) -> str:
    versions = _versions(fidelity)
    line = f"vLLM {versions['vllm']}, its scheduler in the simulation {versions['vllm_simulating']}"
    return line + (f"; {versions['aiconfigurator']}" if versions["aiconfigurator"] else "")


def _figures(fidelity: Fidelity) -> Table:
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
        for figure in fidelity.figures
    ]


def _parts(fidelity: Fidelity) -> Table:
    ttft = {(f.arm, f.case): f.real for f in fidelity.figures if (f.metric, f.statistic) == ("ttft", "p50")}
    header = ("arm", "case", "part", "real", "simulated", "difference", "share of TTFT")
    rows = []
    for part in fidelity.parts:
        whole, known = ttft[part.arm, part.case], part.real is not None and part.simulated is not None
        difference = (part.simulated or 0.0) - (part.real or 0.0) if known else None
        share = difference / whole if difference is not None and whole else None
        values: Sequence[float | None] = (part.real, part.simulated, difference)
        rows.append((part.arm, part.case, part.part, *(quantity(v, "s") for v in values), _percent(share)))
    return header, rows


def _signs(fidelity: Fidelity) -> Table:
    header = ("case", "figure", "candidate ÷ baseline", "real", "simulated", "real says", "sign", "by")
    words = {True: "agrees", False: "DIFFERS", None: "–"}
    rows = []
    for sign in fidelity.signs:
        ratios = ("–" if value is None else f"{value:.3f}" for value in (sign.real, sign.simulated))
        word = words[sign.agrees if sign.agrees is not None else sign.same_sign]
        word = f"({word.lower()})" if sign.agrees is None and sign.same_sign is not None else word
        arms = f"{sign.candidate} ÷ {sign.baseline}"
        rows.append((sign.case, f"{sign.metric} p50", arms, *ratios, sign.outcome, word, sign.how))
    return header, rows


def _percent(share: float | None) -> str:
    return "–" if share is None or not math.isfinite(share) else f"{share:+.1%}"
