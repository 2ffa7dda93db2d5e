"""Writes what docs/ says of options, settings, commands, hooks and evidence from the code that defines them.

python scripts/make_reference.py            # writes the parts of docs/*.md that are marked as generated
python scripts/make_reference.py --check    # writes nothing; exits with 1 and names the pages that are not current
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import cleandoc
from pathlib import Path

import click
from pydantic import BaseModel, TypeAdapter, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from context_research.cli.main import main as commands
from context_research.engines.base import Evidence
from context_research.engines.step_records import COLUMNS
from context_research.measure.checks.builtin import BUILT_IN
from context_research.plugin import hookspecs
from context_research.plugin.options import OF_A_RUN
from context_research.records.ab import AbRecord
from context_research.records.capacity_plan import CapacityPlanRecord
from context_research.records.fidelity import FidelityRecord
from context_research.records.reference import ReferenceRecord
from context_research.records.requests import Line
from context_research.records.run import RunRecord
from context_research.records.summary import SummaryRecord
from context_research.records.verdict import VerdictRecord
from context_research.settings.options import OPTIONS
from context_research.settings.schema import Settings

DOCS = Path(__file__).parent.parent / "docs"
MARK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["--"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def options() -> str:
    """Those that are a setting: also a variable and an ini key."""
    return table(
        ("option", "environment variable", "settings key", "meaning"),
        ((f"`{o.flag} {o.metavar}`", f"`{o.environment}`", f"`{o.key}`", o.help) for o in OPTIONS),
    )


def session_options() -> str:
    """Those of the command line alone."""
    return table(("option", "meaning"), ((f"`{flag} {of['metavar']}`", of["help"]) for flag, of in OF_A_RUN.items()))


def settings() -> str:
    """A section for each group of the YAML files."""
    sections = {"": Settings} | dict(_sections(Settings))
    return "\n\n".join(_section(name, kind) for name, kind in sections.items())


def _sections(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in kind.model_fields.items():
        for inner in _models(field.annotation):
            yield f"{prefix}{name}", inner
            yield from _sections(inner, f"{prefix}{name}.")


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Models of which a field is made, itself or as one of a list: not those that are one of several values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    arguments = [a for a in getattr(annotation, "__args__", ()) if a not in (type(None), Ellipsis)]
    if len(arguments) == 1:
        yield from _models(arguments[0])


def _section(name: str, kind: type[BaseModel]) -> str:
    title = f"## `{name}`" if name else "## Top level"
    schema = kind.model_json_schema(mode="validation")
    rows = (
        (f"`{key}`", _values(schema["properties"][key], schema), _default(field))
        for key, field in kind.model_fields.items()
        if not list(_models(field.annotation))
    )
    return f"{title}\n\n{cleandoc(kind.__doc__ or '')}\n\n{table(('key', 'values', 'default'), rows)}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if default is None or default in ((), {}):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _values(schema: dict[str, object], root: dict[str, object]) -> str:
    """A JSON Schema in a few words."""
    match schema:
        case {"$ref": str(ref)}:
            return _values(_defined(root, ref), root)
        case {"enum": list(values)}:
            return ", ".join(f"`{value}`" for value in values)
        case {"anyOf": list(kinds)}:
            return " or ".join(_values(kind, root) for kind in kinds if kind != {"type": "null"})
        case {"type": "array", "items": dict(items)}:
            return f"list of {_values(items, root)}"
        case {"type": "object", "properties": dict(properties)}:
            return " ".join(f"`{key}:` {_values(value, root)}" for key, value in properties.items())
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"mapping to {_values(values, root)}"
        case {"type": str(kind)}:
            bounds = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
            limits = [f"{sign} {schema[name]}" for name, sign in bounds.items() if name in schema]
            return " ".join([{"object": "mapping"}.get(kind, kind), *limits])
        case _:
            return "any"


def _defined(root: dict[str, object], ref: str) -> dict[str, object]:
    definitions = root["$defs"]
    assert isinstance(definitions, dict)
    found: dict[str, object] = definitions[ref.rpartition("/")[2]]
    return found


def cli() -> str:
    """Every command of `context-research`."""
    return "\n\n".join(_command(name, command) for name, command in sorted(commands.commands.items()))


def _command(name: str, command: click.Command) -> str:
    # Below its group, as click keeps a command's help option as it is first asked for.
    context = click.Context(
        command, info_name=name, parent=commands.make_context("context-research", [], resilient_parsing=True)
    )
    parts = [f"## `{name}`", cleandoc(command.help or "")]
    usage = f"context-research {name} {' '.join(command.collect_usage_pieces(context))}"
    parts.append(f"```sh\n{usage}\n```")
    records = (p.get_help_record(context) for p in command.params if isinstance(p, click.Option))
    if rows := [(f"`{names}`", meaning.replace("\n", " ")) for names, meaning in filter(None, records)]:
        parts.append(table(("option", "meaning"), rows))
    return "\n\n".join(parts)


def hooks() -> str:
    """Every hook, with its arguments."""
    found = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("pytest_context_research_")}
    return table(
        ("hook", "is"),
        (
            (f"`{name}({', '.join(inspect.signature(hook).parameters)})`", " ".join(cleandoc(hook.__doc__).split()))
            for name, hook in found.items()
        ),
    )


def needs() -> str:
    """Which evidence each check rests on."""
    kinds = [kind for kind in Evidence if any(kind in check.needs for check in BUILT_IN)]
    rows = ((f"`{check.name}`", *("×" if kind in check.needs else "" for kind in kinds)) for check in BUILT_IN)
    return table(("check", *kinds), rows)


PARTS: dict[str, Callable[[], str]] = {
    "options": options,
    "session-options": session_options,
    "settings": settings,
    "cli": cli,
    "hooks": hooks,
    "needs": needs,
}


def rendered(page: str) -> str:
    """The page with each generated part as the code says now."""
    return MARK.sub(lambda mark: f"{mark[1]}\n{PARTS[mark['name']]()}\n\n{mark[3]}", page)


SCHEMAS: dict[str, TypeAdapter[object]] = {
    "run_metadata": TypeAdapter(RunRecord),
    "summary": TypeAdapter(SummaryRecord),
    "requests": TypeAdapter(Line),
    "ab": TypeAdapter(AbRecord),
    "verdict": TypeAdapter(VerdictRecord),
    "capacity_plan": TypeAdapter(CapacityPlanRecord),
    "fidelity": TypeAdapter(FidelityRecord),
    "parity_reference": TypeAdapter(ReferenceRecord),
    "steps": TypeAdapter(create_model("Step", **{name: (kind, ...) for name, kind in COLUMNS.items()})),
}
"""Artifact -> its record; of requests.jsonl each line's, of steps/*.csv each row's."""


def schema(kind: TypeAdapter[object]) -> str:
    """The JSON Schema of an artifact as it is written."""
    return json.dumps(kind.json_schema(mode="serialization", by_alias=True), indent=1, ensure_ascii=False) + "\n"


def files() -> Iterator[tuple[Path, str]]:
    """Each page with generated parts and each schema, as the code says now."""
    for path in sorted(DOCS.glob("*.md")):
        yield path, rendered(path.read_text())
    for name, kind in SCHEMAS.items():
        yield DOCS / "schemas" / f"{name}.schema.json", schema(kind)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, now in files():
        if not path.is_file() or path.read_text() != now:
            stale.append(str(path.relative_to(DOCS.parent)))
            if not check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(now)
    print("\n".join(f"{'not current' if check else 'written'}: {path}" for path in stale) or "all current")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
