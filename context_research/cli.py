"""``python -m context_research.cli``: what is done outside pytest. Imports neither torch nor vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from context_research import __version__, artifacts, devices, report, settings
from context_research.artifacts import PLANNED, RunFiles
from context_research.errors import UsageProblem
from context_research.options import from_environment
from context_research.recorder import new_metadata, this_command


class OneLine(click.Group):
    """A group whose commands answer wrong input with one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UsageProblem as problem:
            click.echo(f"ERROR: {problem}", err=True)
            ctx.exit(2)


_outputs = click.option(
    "--outputs",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Folder for runs and reports (default: CONTEXT_RESEARCH_OUTPUTS, else outputs).",
)


@click.group(cls=OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Does splitting prefill from decode pay on your hardware? Runs are started with pytest; see README.md."""


@main.command("init-run")
@click.option("--config-path", type=click.Path(path_type=Path), required=True, help="Experiment config (YAML).")
@click.option("--model-name", default=None, help="Instead of the config's: hub id, folder or name in configs/models.")
@click.option("--serving", default=None, help="Serving mode or file (default: aggregated).")
@click.option("--seed", default=None, help="The run's seed; can be left to the run.")
@click.option("--run-id", default=None, help="Name of the run's folder (default: made from time and settings).")
@_outputs
def init_run(outputs: Path | None, run_id: str | None, config_path: Path, **given: str | None) -> None:
    """Write a run's metadata without running it; `pytest --run-id ID` adopts it. Prints the run's id."""
    options = {"--model-name": given["model_name"], "--serving": given["serving"], "--seed": given["seed"]}
    layers = [
        settings.parse_options("environment", from_environment()),
        settings.parse_options("command line", options | {"--experiment-config": str(config_path)}),
    ]
    experiment = str(settings.read_yaml(config_path).get("experiment", ""))
    resolved = settings.resolve(experiment, layers, *devices.detect())
    chosen = resolved.settings
    outputs = outputs or chosen.outputs
    artifacts.check_writable(outputs)
    new_id = artifacts.new_run_id(chosen.experiment, chosen.serving.mode, chosen.seed)
    files = RunFiles(outputs, run_id or new_id)
    artifacts.check_run_id(files, adopts=False)
    # The model is not looked up: this is for machines that plan runs, and may reach neither the hub nor a GPU.
    metadata = new_metadata(files, resolved, None, this_command()) | {"reason": PLANNED}
    artifacts.write(files.metadata, "run_metadata", metadata)
    click.echo(files.run_id)


@main.command("report")
@click.argument("run", default="latest")
@_outputs
def write_report(run: str, outputs: Path | None) -> None:
    """Write the Markdown report of RUN (an id, or `latest`: the newest completed run). Prints its path."""
    default = settings.parse_options("environment", from_environment()).values.get("outputs", "outputs")
    files = artifacts.find_run(outputs or Path(default), run)
    experiment = artifacts.read(files.metadata, "run_metadata")["experiment"]
    click.echo(report.write(files, experiment))


if __name__ == "__main__":
    main(prog_name="python -m context_research.cli")
