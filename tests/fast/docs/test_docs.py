"""Pages in docs/ are reachable, short and current, and every link leads somewhere. No network."""

import importlib.util
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from context_research.measure import metrics
from context_research.measure.checks.builtin import BUILT_IN
from context_research.records.case import CaseRecord
from context_research.records.requests import LegRecord, RequestRecord, WindowRecord
from context_research.records.run import EngineRecord, ManifestRecord, RunRecord
from context_research.records.verdict import PairsRecord, VerdictRecord

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *(p for f in ("docs", "benchmarks", "tests", "examples", ".benchmarks") for p in (ROOT / f).rglob("*.md")),
    ]
    if "golden" not in page.parts
)
SOURCES = sorted(
    source
    for folder in ("context_research", "scripts", "benchmarks", "configs", "tests", "examples")
    for source in (ROOT / folder).rglob("*")
    if source.suffix in {".py", ".sh", ".yaml", ".toml"} and source != Path(__file__)
)
RESULTS = DOCS / "results"


def read(page):
    return page.read_text(encoding="utf-8")


def name(page):
    return str(page.relative_to(ROOT))


@cache
def tokens(page):
    return [
        inner
        for token in MarkdownIt("gfm-like", {"linkify": False}).parse(read(page))
        for inner in (token, *(token.children or ()))
    ]


def links(page):
    for token in tokens(page):
        if target := token.attrs.get("href") or token.attrs.get("src"):
            yield str(target)


@cache
def anchors(page):
    """As GitHub makes them of headings."""
    made = []
    for token, following in zip(tokens(page), tokens(page)[1:], strict=False):
        if token.type == "heading_open":
            text = "".join(child.content for child in following.children)
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            made.append(f"{slug}-{made.count(slug)}" if slug in made else slug)
    return set(made)


def wrong(page, target):
    """Why a link of `page` leads nowhere, or None."""
    path, _, anchor = target.partition("#")
    there = (page.parent / path).resolve() if path else page
    if not there.exists():
        return f"{name(page)}: no {target}"
    if anchor and there.suffix == ".md" and anchor not in anchors(there):
        return f"{name(page)}: no heading for {target}"
    return None


def by_purpose():
    """The index's sections: purpose -> pages."""
    sections, purpose = {}, ""
    for token, following in zip(tokens(DOCS / "README.md"), tokens(DOCS / "README.md")[1:], strict=False):
        if token.type == "heading_open":
            purpose = following.content
        elif token.type == "link_open":
            sections.setdefault(purpose, []).append((DOCS / token.attrs["href"].partition("#")[0]).resolve())
    return sections


def test_links():
    found = [wrong(page, target) for page in PAGES for target in links(page) if not re.match(r"\w+:", target)]
    assert len(found) > 100
    assert [problem for problem in found if problem] == []


def test_pages_named_in_the_code():
    """Docstrings, comments and messages say docs/metrics.md and the like, from the repository's root."""
    found = [
        (source, target)
        for source in SOURCES
        for target in re.findall(r"\bdocs/[\w/.-]+\.md(?:#[\w-]+)?", read(source))
    ]
    assert len(found) > 10
    assert [name(source) + ": " + target for source, target in found if wrong(ROOT / "README.md", target)] == []


def test_files_named_in_pages():
    """`measure/metrics.py` and the like: from the root, the package, or the page's own folder."""
    found = [
        (page, path)
        for page in PAGES
        if RESULTS not in page.parents
        for path in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|sh|yaml|toml|txt))`", read(page))
    ]
    assert len(found) > 20
    places = (ROOT, ROOT / "context_research")
    missing = [
        f"{name(page)}: {path}" for page, path in found if not any((p / path).exists() for p in (*places, page.parent))
    ]
    assert missing == []


def test_every_page_is_in_the_index_once():
    listed = [page for pages in by_purpose().values() for page in pages]
    assert sorted(listed) == sorted({*DOCS.glob("*.md"), RESULTS / "README.md"} - {DOCS / "README.md"})


def test_every_result_is_in_the_index_of_results():
    listed = {(RESULTS / target).resolve() for target in links(RESULTS / "README.md")}
    assert sorted({*RESULTS.glob("*.md")} - listed - {RESULTS / "README.md"}) == []


def test_pages_are_short():
    """What is read while working: first steps, how-to, reference."""
    limited = [page for purpose in ("First steps", "How to", "Reference") for page in by_purpose()[purpose]]
    assert len(limited) > 8
    own = {name(page): re.sub(r"<!-- generated: .*?<!-- end -->", "", read(page), flags=re.DOTALL) for page in limited}
    assert {page: count for page, text in own.items() if (count := text.count("\n")) > 150} == {}


def test_lines_are_short():
    """Outside tables, which can't be wrapped, lines that are one link, and reports that the package wrote."""
    own = [page for page in PAGES if RESULTS not in page.parent.parents or page.name == "README.md"]
    long = [
        f"{name(page)}:{number}"
        for page in own
        for number, line in enumerate(read(page).splitlines(), 1)
        if len(line) > 120 and not line.lstrip().startswith("|") and not re.fullmatch(r"!?\[.*\]\(\S+\)", line)
    ]
    assert long == []


@pytest.fixture(scope="module")
def reference():
    """scripts/make_reference.py."""
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts" / "make_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_current(reference):
    now = dict(reference.files())
    assert len([page for page in now if page.suffix == ".json"]) == 9
    stale = [name(page) for page, text in now.items() if read(page) != text]
    assert stale == [], "run: python scripts/make_reference.py"


def test_generated_parts_name_what_the_code_has(reference):
    assert "`CONTEXT_RESEARCH_PROMPT_LENGTHS`" in reference.options()
    assert "`--device-groups '0;1'`" in reference.session_options()
    assert "| `routing` | `round_robin`, `least_loaded` | `least_loaded` |" in reference.settings()
    assert "## `verdict`" in reference.cli()


RECORDS = (
    RunRecord,
    EngineRecord,
    ManifestRecord,
    CaseRecord,
    WindowRecord,
    RequestRecord,
    LegRecord,
    VerdictRecord,
    PairsRecord,
)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_an_artifact_is_on_its_page(record):
    named = set(re.findall(r"`(\w+)`", read(DOCS / "artifacts.md")))
    assert {field.alias or name for name, field in record.model_fields.items()} - named == set()


def test_every_room_has_its_row():
    contract = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"][0]
    rooms = [layer.rpartition(".")[2] for layer in contract["layers"]]
    first = (line.split("|")[1] for line in read(DOCS / "how-it-works.md").splitlines() if line.startswith("| `"))
    listed = [room for cell in first for room in re.findall(r"`(\w+)(?:/|\.py)`", cell)]
    assert listed == rooms


def rows(page):
    """First cells of the tables that were written by hand, without their marks."""
    by_hand = re.sub("<!-- generated.*?<!-- end -->", "", read(page), flags=re.DOTALL)
    return {line.split("|")[1].strip(" `") for line in by_hand.splitlines() if line.startswith("|")}


def test_every_metric_and_check_has_its_row():
    assert {metric.name for metric in metrics.METRICS} - rows(DOCS / "metrics.md") == set()
    assert {check.name for check in BUILT_IN} - rows(DOCS / "validity.md") == set()


@pytest.mark.parametrize(
    ("target", "problem"),
    [("metrics.md#rates", None), ("metrics.md#none", "no heading"), ("none.md", "no none.md"), ("#how-to", None)],
)
def test_a_link_that_leads_nowhere_is_found(target, problem):
    found = wrong(DOCS / "README.md", target)
    assert found is None if problem is None else problem in found
