"""``context-research rates``: where an experiment's rates should lie on this machine, before a run that counts."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import click

from context_research.backends.registry import backend_of
from context_research.compare.ab import arms
from context_research.hardware.devices import lasting_names
from context_research.hardware.locks import Hold
from context_research.plugin import project
from context_research.settings.sources import Layer


@click.command()
@click.argument("experiment")
@click.option("--serving", default="aggregated", show_default=True, help="Serving mode or file, then options.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides the requests.")
@click.option("--json", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write what was found here too.")
@click.argument("pytest_options", nargs=-1, metavar="[-- PYTEST OPTIONS]")
def rates(experiment: str, serving: str, seed: int, out: Path | None, pytest_options: tuple[str, ...]) -> None:
    """Search for the rate at which requests begin to miss their limits; print rates around it, for --rates.

    Starts the serving mode's engines, doubles and halves the rate in short tries, then narrows it down. Nothing of it
    counts in any run.
    """
    from context_research.measure import knee
    from context_research.models import hub
    from context_research.serving import build, preflight

    found, here = project.ask(experiment, list(pytest_options))
    given = [*here.layers, Layer("--seed", {"seed": seed})]
    settings = arms.settings(found.name, "serving", serving, pytest_options, given, found.configs, here.root)
    knee.check(settings)
    backend = backend_of(settings)
    backend.check()
    model = hub.resolve(settings.model, config_only=not backend.needs_weights)
    preflight.check(backend, model, [])
    with contextlib.ExitStack() as stack:
        if backend.needs_own_devices and not settings.machine.share_devices:
            held = Hold(lasting_names(settings.device, backend.devices), f"the search for {found.name}'s rates")
            stack.callback(held.release)
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        topology = build.with_logs(backend, hub.download(model) if backend.needs_weights else model, logs)
        topology.start()
        stack.callback(topology.close)
        knees = knee.find(settings, model, topology, lambda told: click.echo(told, err=True))
    around = knee.grid(knees)
    if out is not None:
        out.write_text(json.dumps({"knees": [[each.low, each.high] for each in knees], "rates": around}) + "\n")
    click.echo("--rates=" + ",".join(f"{rate:g}" for rate in around))
