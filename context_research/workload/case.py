"""One case: a point of an experiment's axes."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from context_research.models.capacity import Load
from context_research.settings.schema import Workload


@dataclass(frozen=True, slots=True)
class Case:
    """One prompt length at one concurrency."""

    experiment: str
    prompt_tokens: int
    concurrency: int

    @property
    def name(self) -> str:
        return f"p{self.prompt_tokens}-c{self.concurrency}"

    def load(self, workload: Workload) -> Load:
        return Load(self.prompt_tokens, workload.output_tokens, self.concurrency)

    def seed(self, run_seed: int, part: str) -> int:
        """A seed of this case's own, so that no case's requests depend on which others run, or in which process."""
        text = f"{run_seed}:{self.experiment}:{self.name}:{part}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
