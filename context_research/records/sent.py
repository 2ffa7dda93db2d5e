"""What a case was sent, as one hash: two arms whose hashes differ did not have the same work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Protocol


class Sent(Protocol):
    """A request as a timeline and as a line of requests.jsonl have it."""

    @property
    def request(self) -> str: ...
    @property
    def prompt_sha256(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def repeat(self) -> int: ...
    @property
    def scheduled(self) -> float: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def output_tokens_asked(self) -> int: ...


def digest(sent: Iterable[Sent]) -> str | None:
    """Of the requests of a case's measured passes, ramp and drain too, in the order in which they were due.

    Not of a timed load's tail: how much of it is sent depends on how long the window's requests take. Prompts, sampling
    and moments drawn beforehand (`prompt_sha256`), lengths and order count; other moments and ids don't. None: nothing
    was sent.
    """
    passes = sorted((each for each in sent if each.repeat >= 0 and each.phase != "tail"), key=_due)
    lines = (f"{s.repeat} {s.prompt_sha256} {s.prompt_tokens} {s.output_tokens_asked}\n" for s in passes)
    return sha256("".join(lines).encode()).hexdigest() if passes else None


def _due(sent: Sent) -> tuple[int, float, list[tuple[int, str]]]:
    """Of requests due at one moment the ids decide, which end in their number in the pass."""
    words = re.findall(r"\d+|\D+", sent.request)
    return sent.repeat, sent.scheduled, [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
