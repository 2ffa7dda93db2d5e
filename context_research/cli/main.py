"""``context-research``: what is done outside pytest. Imports neither torch nor vLLM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from context_research import __version__
from context_research.backends.resolve import resolve
from context_research.cli import outputs as outputs_option
from context_research.cli import plan as planned
from context_research.cli import rates, simulation
from context_research.cli.parameters import Numbers, Share
from context_research.compare import comparison, verdict
from context_research.compare.ab import arms as ab_arms
from context_research.compare.ab import looks as ab_looks
from context_research.compare.ab import plan as ab_plan
from context_research.compare.ab import preflight as ab_preflight
from context_research.compare.ab import sessions as ab
from context_research.compare.verdict import Findings
from context_research.errors import UsageProblem
from context_research.hardware.manifest import environment_manifest
from context_research.plugin import project
from context_research.records import store
from context_research.records.files import PLANNED, AbFiles, RunFiles, check_run_id, find, new_run_id
from context_research.records.run import ManifestRecord, new_run, this_command
from context_research.report import comparison as comparison_report
from context_research.report import run, verdicts, words
from context_research.settings import options, sources

CALL_AGAIN = os.EX_TEMPFAIL
"""Exit status of an `ab` whose budget is spent: 75."""


class OneLine(click.Group):
    """A group whose commands answer wrong input with one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageProblem as problem:
            click.echo(f"ERROR: {problem}", err=True)
            ctx.exit(2)


_PLANNED = [option for option in options.OPTIONS if option.flag in ("--model-name", "--serving", "--seed")]


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """What of a run can be settled when it is planned: options as pytest has them."""
    for option in reversed(_PLANNED):
        command = click.option(option.flag, option.name, metavar=option.metavar, help=option.help)(command)
    return command


def _judging(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is judged, and how."""
    command = click.option(
        "--primary",
        metavar="METRIC,METRIC",
        help="The family to be judged (default: ttft,tpot): metrics (chat.ttft: a class's), or figures (ttft.p90).",
    )(command)
    return click.option(
        "--practical", type=Share(), help="Ratios within 1 ± this are equal for practical purposes (default: 3%)."
    )(command)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Does splitting prefill from decode pay on your hardware? Runs are started with pytest; see README.md."""


@main.command("init-run")
@click.option("--config-path", type=click.Path(path_type=Path), required=True, help="Experiment config (YAML).")
@click.option("--run-id", default=None, help="Name of the run's folder (default: made from time and settings).")
@_settings
@outputs_option.option
def init_run(outputs: Path | None, run_id: str | None, config_path: Path, **given: str | None) -> None:
    """Write a run's metadata without running it; `pytest --run-id ID` adopts it. Prints the run's id."""
    asked = {option.flag: given[option.name] for option in _PLANNED} | {"--experiment-config": str(config_path)}
    here = project.here()
    layers = [*here.layers, sources.parse_options("command line", asked)]
    experiment = str(sources.read_yaml(config_path).get("experiment", ""))
    resolved = resolve(experiment, layers, root=here.root)
    chosen = resolved.settings
    outputs = outputs or (here.root / chosen.outputs if "outputs" in resolved.sources else here.outputs)
    store.check_writable(outputs)
    new_id = new_run_id(chosen.experiment, chosen.serving.mode, chosen.seed)
    files = RunFiles(outputs, run_id or new_id)
    check_run_id(files, adopts=False)
    # The model is not looked up: this is for machines that plan runs, and may reach neither the hub nor a GPU.
    manifest = ManifestRecord.model_validate(environment_manifest())
    planned = new_run(files.run_id, resolved, None, this_command(), manifest).model_copy(update={"reason": PLANNED})
    store.write(files.metadata, planned)
    click.echo(files.run_id)


@main.command("ab")
@click.argument("experiment")
@click.option("--baseline", help="Serving mode or file, then options (default: aggregated).")
@click.option("--candidate", help="The same for the other arm (default: disaggregated).")
@click.option(
    "--arm",
    "named",
    multiple=True,
    metavar="NAME=TEXT",
    help="In place of those two, again for each arm: a name, and a serving mode or file, then options.",
)
@click.option("--against", metavar="NAME", help="The arm that each other one is held against (default: the first).")
@click.option(
    "--pairs", type=click.IntRange(min=1), help="A fixed number of pairs (sessions of every arm), judged at their end."
)
@click.option(
    "--looks",
    type=Numbers("6,8,10,12"),
    metavar="N,N",
    help="Without --pairs: numbers of pairs after which all is judged; it ends where all is decided "
    f"(default: {','.join(map(str, ab_looks.LOOKS))}).",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of pair 1; the next has one more."
)
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Repeats within a session.")
@click.option(
    "--allow-different", multiple=True, metavar="KEY", help="A difference that matters, allowed and reported."
)
@click.option(
    "--device-groups",
    metavar="'0,1;2,3'",
    help="Run a pair's sessions side by side, each on GPUs (or cores) of its own; the next pair swaps them.",
)
@click.option(
    "--budget", type=click.FloatRange(min=0), metavar="SECONDS", help="Begin no session that would end later."
)
@click.option("--fresh", is_flag=True, help="Begin anew, though an A/B of the same plan is unfinished.")
@click.option("--find-rates", is_flag=True, help="First search for rates around every arm's knee: all measure those.")
@click.argument("pytest_options", nargs=-1, metavar="[-- PYTEST OPTIONS]")
@_judging
@outputs_option.option
def run_ab(
    outputs: Path | None,
    fresh: bool,
    budget: float | None,
    primary: str | None,
    practical: float | None,
    named: tuple[str, ...],
    baseline: str | None,
    candidate: str | None,
    **given: Any,
) -> None:
    """Run sessions of two arms or more in turn, A B B A, and judge them. The same command goes on with what is there.

    An arm is a serving mode or file with options of its own: --candidate "aggregated --set engine.block_size=64".
    """
    arms = ab_arms.asked(named, {"baseline": baseline, "candidate": candidate})
    experiment, here = project.ask(given.pop("experiment"), given["pytest_options"])
    plan = ab_plan.plan(experiment, arms, _names(primary), practical, given=here.layers, root=here.root, **given)
    for told in ab_preflight.check(plan):
        click.echo(f"warning: {told}")
    running = ab.Ab.open(outputs or here.outputs, plan, fresh)
    click.echo(f"A/B {running.files.ab_id}: " + "\n".join(plan.described))
    if not plan.swaps_evenly:
        click.echo(
            f"note: {ab_looks.listed(plan.ends)} pairs on {len(plan.device_groups)} groups of devices: a multiple of "
            "as many would have each arm on each group equally often"
        )
    try:
        running.run(click.echo, budget)
    except ab.TimeIsUp as up:
        click.echo(f"{up}: call again to go on")
        raise SystemExit(CALL_AGAIN) from None
    except KeyboardInterrupt as interrupt:
        click.echo(f"ERROR: {interrupt or 'interrupted'}; the same command goes on with what is there", err=True)
        raise SystemExit(128 + getattr(interrupt, "number", signal.SIGINT)) from None
    _tell(ab.judge(running.files), running.files)


@main.command("verdict")
@click.argument("names", nargs=-1, metavar="RUN_OR_AB [RUN_OR_AB]")
@click.option("--fail-on", type=click.Choice(["worse"]), help="Exit with 1 if a primary metric is worse.")
@click.option(
    "--start-noise", type=Share(), help="How far two single runs' starts lie apart by themselves (default: 10%)."
)
@click.option(
    "--allow-different", multiple=True, metavar="KEY", help="Of two runs: a difference that matters, allowed."
)
@_judging
@outputs_option.option
def tell_verdict(
    outputs: Path | None,
    names: tuple[str, ...],
    fail_on: str | None,
    primary: str | None,
    practical: float | None,
    start_noise: float | None,
    allow_different: tuple[str, ...],
) -> None:
    """Judge an A/B, or two runs: baseline, then candidate. `latest` is the newest of both kinds.

    A second A/B must be an A/A, and is the noise floor. One run is held against the newest earlier one in another mode.
    """
    if not 1 <= len(names) <= 2:
        raise UsageProblem("name an A/B, or two runs (baseline, then candidate): verdict RUN_OR_AB [RUN_OR_AB]")
    found = [find(outputs_option.folder(outputs), name) for name in names]
    family = _names(primary)
    if isinstance(first := found[0], AbFiles):
        if allow_different or start_noise is not None:
            raise UsageProblem(
                "--allow-different and --start-noise are for two runs; an A/B has its own, or needs none"
            )
        judged = ab.judge(first, found[1] if len(found) == 2 else None, family, practical)
    else:
        runs = [comparison.load(each) for each in found if isinstance(each, RunFiles)]
        if len(runs) < len(found):
            raise UsageProblem("give two runs, or an A/B and an A/A")
        baseline, candidate = runs if len(runs) == 2 else (comparison.other_mode(runs[0]), runs[0])
        two = comparison.of_runs(baseline, candidate, allow_different)
        judged = verdict.judge(two, family, practical, start_noise)
    _tell(judged, first)
    if fail_on and not judged.measured:
        raise UsageProblem(f"--fail-on {fail_on}: these runs were simulated and get no verdict: compare real ones")
    if fail_on and judged.worse:
        raise SystemExit(1)


@main.command("report")
@click.argument("name", default="latest", metavar="[RUN_OR_AB]")
@outputs_option.option
def write_report(name: str, outputs: Path | None) -> None:
    """Write the Markdown report of a run or an A/B (an id, or `latest`: the newest completed). Prints its path."""
    files = find(outputs_option.folder(outputs), name)
    if isinstance(files, AbFiles):
        click.echo(comparison_report.write(ab.judge(files)))
    else:
        click.echo(run.write(files))


def _names(primary: str | None) -> list[str] | None:
    return None if primary is None else options.names(primary)


def _tell(judged: Findings, files: AbFiles | RunFiles) -> None:
    """Verdicts to the terminal and, of an A/B, beside its record; the report."""
    if isinstance(files, AbFiles):
        store.write(files.verdict, judged.record())
    path = comparison_report.write(judged)
    click.echo(f"{verdicts.terminal_table(judged)}\n\n{words.headline(judged)}\nreport  {path}")


main.add_command(planned.plan)
main.add_command(rates.rates)
main.add_command(simulation.calibrate)
main.add_command(simulation.device_profiles)
main.add_command(simulation.fidelity)


if __name__ == "__main__":
    main(prog_name="context-research")
