"""references/<key>.json: greedy outputs of one engine that served each request alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from context_research.records.base import Artifact, JsonObject, Record

TokenId = Annotated[str, Field(pattern=r"^[0-9]+$")]


class OutputRecord(Record):
    """`alternatives[i]`: token id -> log-probability of the likeliest tokens at position i; empty where not asked."""

    token_ids: tuple[int, ...]
    alternatives: tuple[dict[TokenId, float], ...]


class ReferenceRecord(Artifact):
    """`key`: everything that may change an output. `outputs`: prompt hash -> output."""

    run_id: str = Field(min_length=1)
    engine: str
    key: JsonObject
    outputs: dict[str, OutputRecord] = Field(min_length=1)
