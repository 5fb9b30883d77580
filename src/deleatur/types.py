"""What travels between the parts.

Letters in shapes: B sequences in a batch · L positions, the longest sequence's · N scored tokens of all sequences ·
D width of the hidden state · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Characters [start, end) of an answer that must be forgotten, or with `keep` must not."""

    start: int
    end: int
    keep: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One checked row. `prompt` holds (role, content) turns; a plain text has none and is all answer."""

    id: str
    prompt: tuple[tuple[str, str], ...]
    answer: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()

    @property
    def question(self) -> str:
        """The last thing asked; empty for a plain text."""
        return self.prompt[-1][1] if self.prompt else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """An example as token ids. Tokens from `start` on are scored; `offsets` are their characters in the answer.

    A scored token outside the answer (the end of turn) has the empty offset (len(answer), len(answer)); `cut` says that the
    end was lost to the longest length.
    """

    example: Example
    ids: tuple[int, ...]
    start: int
    offsets: tuple[tuple[int, int], ...]
    cut: bool = False

    @property
    def gold(self) -> tuple[bool, ...] | None:
        """Which scored tokens touch characters that must be forgotten; None where the row has no spans."""
        if not self.example.spans:
            return None
        forget, keep = ([s for s in self.example.spans if s.keep is k] for k in (False, True))
        if not forget:  # only "keep" was marked: the rest is to go
            return tuple(a < b and not any(a < s.end and s.start < b for s in keep) for a, b in self.offsets)
        return tuple(any(a < s.end and s.start < b for s in forget) for a, b in self.offsets)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Sequences padded on the right; the first `forget` of them are forget rows.

    A causal model never looks right, so padding needs no mask; `scored` holds flat indices b·L + l of scored tokens.
    """

    ids: Int[Tensor, "B L"]
    scored: Int[Tensor, " N"]
    sequence: Int[Tensor, " N"]
    forget: int
    keys: tuple[int, ...]  # each sequence's place in its data set

    def to(self, device: torch.device) -> Batch:
        return replace(self, ids=self.ids.to(device), scored=self.scored.to(device), sequence=self.sequence.to(device))

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutputs:
    """What a model says of scored tokens: flat, ragged, no padding."""

    nll: Float[Tensor, " N"]  # nats
    hidden: Float[Tensor, "N D"]  # final state, after the last norm
    sequence: Int[Tensor, " N"]  # which sequence, counted from 0
    keys: tuple[int, ...]  # each sequence's place in its data set
    hit: Bool[Tensor, " N"] | None = None  # is the token the model's first choice? on request
    logits: Float[Tensor, "N V"] | None = None  # on request

    def detach(self) -> TokenOutputs:
        """The same numbers, held fixed."""
        return self._map(Tensor.detach)

    def split(self, first: int) -> tuple[TokenOutputs, TokenOutputs]:
        """The first sequences, and the others counted from 0 again."""
        n = int((self.sequence < first).sum())
        rest = replace(self._map(lambda x: x[n:]), keys=self.keys[first:])
        return replace(self._map(lambda x: x[:n]), keys=self.keys[:first]), replace(rest, sequence=rest.sequence - first)

    @staticmethod
    def join(parts: Sequence[TokenOutputs]) -> TokenOutputs:
        """Several batches as one. Requested extras are dropped."""
        firsts = [sum(len(p.keys) for p in parts[:i]) for i in range(len(parts))]
        return TokenOutputs(
            nll=torch.cat([p.nll for p in parts]),
            hidden=torch.cat([p.hidden for p in parts]),
            sequence=torch.cat([p.sequence + first for p, first in zip(parts, firsts, strict=True)]),
            keys=tuple(key for p in parts for key in p.keys),
        )

    def _map(self, f) -> TokenOutputs:
        return replace(
            self,
            nll=f(self.nll),
            hidden=f(self.hidden),
            sequence=f(self.sequence),
            hit=None if self.hit is None else f(self.hit),
            logits=None if self.logits is None else f(self.logits),
        )


Reference = Callable[[TokenOutputs], Float[Tensor, " N"]]
"""NLL of the same tokens under the model as it was before unlearning, in nats."""


class Importance(Protocol):
    """How much each token matters, held fixed during the model's turn."""

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]: ...


@runtime_checkable
class TakesTurns(Protocol):
    """An importance that learns, in alternation with the model."""

    def due(self, step: int) -> bool:
        """Is there a turn after this step (counted from 1)?"""
        ...

    def turn(self, tokens: TokenOutputs) -> dict[str, float]:
        """Learn from a step's forget tokens (detached); returns figures for the log."""
        ...


class ForgetLoss(Protocol):
    """How tokens are pushed away: a sum over `unit`s, which the loop divides by their global count."""

    unit: ClassVar[str]
    needs_reference: ClassVar[bool]

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a model did with one example: everything that a metric may look at."""

    id: str
    question: str
    answer: str
    generated: str
    logp: tuple[float, ...]  # of each scored token, nats; the end of turn comes last where there is one
    hit: tuple[bool, ...]  # was the token the first choice, all earlier ones given?
    ends: bool  # is the last scored token an end of turn?
    spans: tuple[Span, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    importance: tuple[float, ...] | None = None  # of each scored token
    gold: tuple[bool, ...] | None = None  # must the token be forgotten?
