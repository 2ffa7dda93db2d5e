"""Strikes sessions with each fault in each phase, and writes what they leave as the matrix of docs/reliability.md.

    python benchmarks/studies/faults/faults.py --out OUT                 # simulated engines: each fault and phase
    python benchmarks/studies/faults/faults.py --out OUT --real          # real engines on the CPU, too
    python benchmarks/studies/faults/faults.py --out OUT --only 'SIGTERM' --phases 'measured,report'

The bar: none hangs, none leaves a process, nothing finished is lost. Exit code 1 if a cell misses it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tabulate import tabulate

from cells import ROOT, Cell, run
from strikes import PHASES

PAGE = ROOT / "docs" / "reliability.md"
SIGNALS = ("Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGHUP", "SIGKILL")
SIMULATED = (*SIGNALS, "disk full", "disk gone")
REAL = ("Ctrl-C to all", "Ctrl-C twice", "SIGTERM", "SIGKILL", "prefill killed", "decode killed", "/dev/shm full")
REAL_PHASES = ("engine start", "warm-up", "measured", "handoff", "between cases", "engines' end")
TITLES = {"simulated": "Simulated engines", "real": "Real engines, on a CPU"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for sessions and cells.json, which is added to")
    parser.add_argument("--real", action="store_true", help="real engines on the CPU instead of simulated ones")
    parser.add_argument("--only", help="faults, separated by commas")
    parser.add_argument("--phases", help="phases, separated by commas")
    parser.add_argument("--write", action="store_true", help=f"only write the matrix into {PAGE.name}")
    given = parser.parse_args()
    faults = given.only.split(",") if given.only else REAL if given.real else SIMULATED
    phases = given.phases.split(",") if given.phases else REAL_PHASES if given.real else PHASES
    kind, kept = "real" if given.real else "simulated", given.out / "cells.json"
    given.out.mkdir(parents=True, exist_ok=True)
    cells: dict[str, list[Cell]] = {name: [] for name in TITLES}
    if kept.exists():
        read = json.loads(kept.read_text(encoding="utf-8"))
        cells |= {name: [Cell(**cell) for cell in read.get(name, ())] for name in TITLES}
    for fault in () if given.write else faults:
        for phase in phases:
            cell = run(fault, phase, real=given.real, scratch=given.out.absolute())
            others = [each for each in cells[kind] if (each.fault, each.phase) != (fault, phase)]
            cells[kind] = [*others, cell]
            print(
                f"{'ok  ' if cell.holds else 'MISS'} {fault}, {phase}: {cell.shown} ({cell.seconds:.0f} s)", flush=True
            )
            plain = {name: [asdict(each) for each in some] for name, some in cells.items()}
            kept.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    if given.write:
        write(cells)
    missed = [cell for some in cells.values() for cell in some if not cell.holds]
    sys.exit(1 if missed else 0)


def write(cells: dict[str, list[Cell]], page: Path = PAGE) -> None:
    """Replace the page's matrix, which stands between two comments."""
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- matrix -->\n")
    _, _, tail = rest.partition("<!-- end of matrix -->\n")
    tables = [f"### {TITLES[name]}\n\n{table(some)}\n" for name, some in cells.items() if some]
    text = f"{head}<!-- matrix -->\n\n" + "\n".join(tables) + f"\n<!-- end of matrix -->\n{tail}"
    page.write_text(text, encoding="utf-8")


def table(cells: list[Cell]) -> str:
    """A row a phase, a column a fault."""
    struck = {cell.fault for cell in cells}
    faults = [fault for fault in dict.fromkeys((*SIMULATED, *REAL)) if fault in struck]
    by_place = {(cell.fault, cell.phase): cell for cell in cells}
    phases = [phase for phase in PHASES if any(cell.phase == phase for cell in cells)]
    rows = [
        [phase, *(by_place[fault, phase].shown if (fault, phase) in by_place else "–" for fault in faults)]
        for phase in phases
    ]
    return tabulate(rows, ["phase", *faults], tablefmt="github")


if __name__ == "__main__":
    main()
