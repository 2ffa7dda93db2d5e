"""Which experiments there are: folders with a test and a README, and the YAML that goes with them.

Imports the standard library alone: pytest asks in every project that has the plugin installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
# A wheel carries the shipped configs inside the package; a checkout has them beside it.
CONFIGS = PACKAGE / "_configs" if (PACKAGE / "_configs").is_dir() else PACKAGE.parent / "configs"
SHIPPED = CONFIGS / "experiments"


@dataclass(frozen=True, slots=True)
class Experiment:
    """A question with axes. `folder` holds its test and its README, `configs` its YAML.

    The YAML is NAME.yaml; where there is a NAME_smoke.yaml too, that is for machines without a GPU.
    """

    name: str
    folder: Path
    configs: Path = SHIPPED

    def is_among(self, paths: Iterable[Path]) -> bool:
        """True if one of `paths` (resolved) is in the folder, or above it."""
        folder = self.folder.resolve()
        return any(path.is_relative_to(folder) or folder.is_relative_to(path) for path in paths)


def config_file(name: str, configs: Path, gpu: bool) -> Path:
    """The YAML that applies to an experiment on this kind of machine; it need not be there."""
    smoke = configs / f"{name}_smoke.yaml"
    return smoke if not gpu and smoke.is_file() else configs / f"{name}.yaml"


def below(root: Path) -> list[Experiment]:
    """The experiments of a repository: benchmarks/NAME with a test, and a YAML that says it is NAME's.

    The YAML is in the repository's configs/experiments, or is one of those we ship.
    """
    found = []
    for folder in sorted((root / "benchmarks").glob("*/")):
        if any(folder.glob("test_*.py")) and (configs := _configs(root, folder)):
            found.append(Experiment(folder.name, folder, configs))
    return found


def _configs(root: Path, folder: Path) -> Path | None:
    places = (root / "configs" / "experiments", SHIPPED)
    return next((each for each in places if name_in(config_file(folder.name, each, gpu=True)) == folder.name), None)


def name_in(path: Path) -> str | None:
    """The experiment that a YAML file is of; None if it says none.

    Read as text: other projects have such folders too, and a YAML parser is not for them to pay for.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="ignore")
    except OSError:
        return None
    found = re.search(r"""^experiment:\s*["']?([\w-]+)["']?\s*(#.*)?$""", text, re.MULTILINE)
    return found[1] if found else None
