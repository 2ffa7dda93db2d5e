"""Sections that plugins add to a run's report; kept in the run's folder, so that a report made again has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from context_research.records import store
from context_research.records.files import RunFiles


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, and Markdown below it."""

    title: str
    markdown: str


def keep(files: RunFiles, sections: Iterable[Section]) -> None:
    """Write them to the run's folder, where there are any."""
    if text := "\n\n".join(f"## {section.title}\n\n{section.markdown.strip()}" for section in sections):
        store.replace(files.sections, text + "\n")


def kept(files: RunFiles) -> str:
    """Their Markdown; empty where no plugin added any."""
    return files.sections.read_text(encoding="utf-8").strip() if files.sections.is_file() else ""
