"""What `deleatur rows` takes. Free of torch; `--help` is made of these docstrings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from unicodedata import normalize

from deleatur.settings import Data, Judge, require


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Ask a model about a name, and write what it answers consistently, and only about this name, as rows to forget."""

    model: str
    """Name on the hub, folder, or .gguf file of a causal language model."""
    subject: str
    """The name, as it is written in questions."""
    kind: Literal["person", "organisation", "work", "place"] = "person"
    """Which built-in questions (English) are asked."""
    questions: str | None = None
    """File of questions in place of the built-in ones: one a line with {name}; an empty line ends the wordings of a fact."""
    texts: str | None = None
    """Folder (or file) of .txt and .md texts about the subject: their sentences are used as prompts as well, the
    first 200 that name it."""
    out: str = "rows.jsonl"
    """New file for the rows."""
    samples: int = 2
    """Sampled answers to each question beside the greedy one, 0 or more."""
    threshold: float = 0.6
    """Share of the model's answers to a fact that have to agree, in (0, 1]."""
    strangers: int = 4
    """Made-up and other names for comparison, at least 1: what the model also says about them is not knowledge."""
    new_tokens: int = 40
    """Longest answer in tokens, at least 1."""
    batch: int = 32
    """Questions in one forward, at least 1; several times as many are answered at a time."""
    seed: int = 0
    """Chooses the strangers and draws the samples, 0 or more."""
    data: Data = field(default_factory=Data)
    """How questions become prompts."""
    judge: Judge = field(default_factory=Judge)
    """With `url`, the model behind it writes further questions: the name and the texts are sent there."""

    def __post_init__(self) -> None:
        require(bool(self.subject.strip()), "subject", self.subject, "a name")
        object.__setattr__(self, "subject", normalize("NFC", " ".join(self.subject.split())))
        require(self.out.endswith((".jsonl", ".ndjson")), "out", self.out, "a file that ends in .jsonl")
        require(self.samples >= 0, "samples", self.samples, "0 or more")
        require(0 < self.threshold <= 1, "threshold", self.threshold, "above 0, up to 1")
        require(1 <= self.strangers <= 24, "strangers", self.strangers, "1 to 24")
        require(self.new_tokens >= 1, "new_tokens", self.new_tokens, "1 or more")
        require(self.batch >= 1, "batch", self.batch, "1 or more")
        require(self.seed >= 0, "seed", self.seed, "0 or more")
