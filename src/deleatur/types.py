"""Types that packages exchange.

Letters in shapes: B sequences in a batch · L positions, the longest sequence's · N scored tokens of all sequences ·
D width of the hidden state · V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Batch",
    "Divergence",
    "Encoded",
    "Example",
    "HeadStates",
    "Likelihood",
    "Record",
    "Reference",
    "Span",
    "Start",
    "Suite",
    "Teacher",
    "TokenOutputs",
    "TokenStatistics",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Characters [start, end) of an answer that must be forgotten, or with `keep` must not."""

    start: int
    end: int
    keep: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One checked row. `prompt` holds (role, content) turns; a plain text has none and is all answer.

    A prompt of the single role "text" is put before the answer as it is, without a template.
    """

    id: str
    prompt: tuple[tuple[str, str], ...]
    answer: str
    subject: str | None = None
    paraphrases: tuple[str, ...] = ()
    spans: tuple[Span, ...] = ()
    alternates: tuple[str, ...] = ()  # answers to give instead
    restated: str | None = None  # the answer restated
    wrong: tuple[str, ...] = ()  # wrong answers to the same question
    reasoning: str | None = None  # the model's own, before the answer, where its template opens a block for that
    reasoning_cut: bool = False  # did the reasoning not end within its limit?

    @property
    def question(self) -> str:
        """The last user turn; empty for a plain text."""
        return self.prompt[-1][1] if self.prompt else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A benchmark, or a user's own rows: sets by name, of which "forget" and "retain" are trained on, and what is read off.

    `evaluated_sets` names the sets to evaluate on, "forget" always among them; FQ reads `score`, a row's metric, on
    `forget_sets`, RD on `retain_sets`; tuning maximises `objective`: UQ of that
    score, or a metric on `retain_sets` minus `forget_sets`;
    `set_metrics` names figures that need several sets (`deleatur.evaluation.metrics.SET_METRICS`). A suite that is only
    evaluated has nothing to forget: `forget_sets` is empty.
    """

    name: str
    sets: Mapping[str, tuple[Example, ...]]
    evaluated_sets: tuple[str, ...]
    forget_sets: tuple[str, ...] = ("forget",)
    retain_sets: tuple[str, ...] = ("retain",)
    score: str = "revealed"
    objective: str = "uq"
    set_metrics: tuple[str, ...] = ()


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
    """Sequences padded on the right: `forget` forget rows, `preferred` answers to give instead of theirs, retain rows.

    A causal model never looks right, so padding needs no mask; `scored` holds flat indices b·L + l of scored tokens.
    """

    ids: Int[Tensor, "B L"]
    scored: Int[Tensor, " N"]
    sequence: Int[Tensor, " N"]
    forget: int
    rows: tuple[Encoded, ...]
    preferred: int = 0

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return replace(self, ids=self.ids.to(device), scored=self.scored.to(device), sequence=self.sequence.to(device))

    def __len__(self) -> int:
        return len(self.rows)


class TokenStatistics(NamedTuple):
    """Statistics of the distribution that predicts each token."""

    nll: Float[Tensor, " N"]  # nats
    hit: Bool[Tensor, " N"]  # is the token the first choice?
    mean: Float[Tensor, " N"]  # of log p over the vocabulary, weighted by p: minus the entropy, nats
    deviation: Float[Tensor, " N"]  # its standard deviation, nats


class Divergence(NamedTuple):
    """Kullback-Leibler divergences of the model from the start model at each token, nats."""

    kept: Float[Tensor, " N"]  # KL(p_ref ‖ p), p_ref the start model's distribution
    erased: Float[Tensor, " N"]  # KL(q ‖ p), q the start model's distribution with the token taken out


@dataclass(frozen=True, kw_only=True)  # no slots: DeepSpeed's hooks look for tensors in a forward's `vars`
class TokenOutputs:
    """A model's outputs for scored tokens: flat, ragged, no padding.

    Examples:
        >>> tokens.nll.shape, tokens.hidden.shape, tokens.sequence.tolist()
        (torch.Size([9]), torch.Size([9, 4]), [0, 0, 0, 1, 2, 2, 2, 2, 2])
        >>> forget_tokens, retain_tokens = tokens.split(2)  # the first two sequences, and the others
        >>> len(forget_tokens.nll), len(retain_tokens.nll)
        (4, 5)
    """

    nll: Float[Tensor, " N"]  # nats
    hidden: Float[Tensor, "N D"]  # final state, after the last norm
    sequence: Int[Tensor, " N"]  # which sequence, counted from 0
    rows: tuple[Encoded, ...]
    # on request:
    statistics: TokenStatistics | None = None
    logits: Float[Tensor, "N V"] | None = None
    divergence: Divergence | None = None
    layer: Float[Tensor, "N D"] | None = None  # state of a middle layer at the token's own position
    preferred: TokenOutputs | None = None  # the answers to give instead, sequence by sequence

    def detach(self) -> TokenOutputs:
        """The same numbers, held fixed."""
        return self._map(Tensor.detach)

    def bare(self) -> TokenOutputs:
        """Without the optional outputs, which are large."""
        return replace(self, statistics=None, logits=None, divergence=None, layer=None, preferred=None)

    def split(self, first: int) -> tuple[TokenOutputs, TokenOutputs]:
        """The first sequences, and the others counted from 0 again."""
        n = int((self.sequence < first).sum())
        rest = replace(self._map(lambda x: x[n:]), rows=self.rows[first:])
        return replace(self._map(lambda x: x[:n]), rows=self.rows[:first]), replace(rest, sequence=rest.sequence - first)

    @staticmethod
    def join(parts: Sequence[TokenOutputs]) -> TokenOutputs:
        """Several batches as one. Requested extras are dropped."""
        firsts = [sum(len(p.rows) for p in parts[:i]) for i in range(len(parts))]
        return TokenOutputs(
            nll=torch.cat([p.nll for p in parts]),
            hidden=torch.cat([p.hidden for p in parts]),
            sequence=torch.cat([p.sequence + first for p, first in zip(parts, firsts, strict=True)]),
            rows=tuple(row for p in parts for row in p.rows),
        )

    def _map(self, f) -> TokenOutputs:
        return replace(
            self,
            nll=f(self.nll),
            hidden=f(self.hidden),
            sequence=f(self.sequence),
            statistics=None if self.statistics is None else TokenStatistics(*map(f, self.statistics)),
            logits=None if self.logits is None else f(self.logits),
            divergence=None if self.divergence is None else Divergence(*map(f, self.divergence)),
            layer=None if self.layer is None else f(self.layer),
        )

    @property
    def ids(self) -> Int[Tensor, " N"]:
        """The tokens themselves."""
        return torch.tensor([i for row in self.rows for i in row.ids[row.start :]], device=self.nll.device)


def _not_made(tokens: TokenOutputs) -> Tensor:
    raise LookupError("the start model's output was not computed before training")


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """The start model's predictions as a forward pass needs them for a `Divergence`: its states, and a copy of its head."""

    states: Callable[[Sequence[Encoded]], Float[Tensor, "N D"]]  # that predict the rows' scored tokens, row by row
    head: Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The start model's outputs for the same tokens; each is computed once, and only where a loss or importance needs it."""

    nll: Callable[[TokenOutputs], Float[Tensor, " N"]] = _not_made  # nats
    logits: Callable[[TokenOutputs], Float[Tensor, "N V"]] = _not_made
    layer: Callable[[TokenOutputs], Float[Tensor, "N D"]] = _not_made
    teacher: Teacher | None = None  # for the forward pass, where a `Divergence` is needed
    level: Callable[[TokenOutputs], Float[Tensor, " N"]] | None = None  # NLL that forget tokens should have


class Likelihood(NamedTuple):
    """Statistics of one row's scored tokens, in nats."""

    nll: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]  # of the whole distribution at each token


class HeadStates(NamedTuple):
    """The head's inputs at each of a row's scored tokens, fp32 and on the CPU."""

    before: Float[Tensor, "n D"]  # the last hidden state that predicts the token
    at: Float[Tensor, "n D"]  # the last hidden state at the token itself
    token: Float[Tensor, "n D"]  # the head's own row for the token, less the mean of all rows
    nll: Float[Tensor, " n"]  # nats


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What an importance may read before training."""

    forget: Sequence[Encoded]
    retain: Sequence[Encoded]
    likelihood: Callable[[Sequence[Encoded], str | None], Sequence[Likelihood]]  # under the start model, or one by name
    similarity: Callable[[int, int], Sequence[Float[Tensor, " n"]]] = lambda nearest, rows: ()  # `head_similarity` of both
    head_states: Callable[[Sequence[Encoded]], Sequence[HeadStates]] = lambda rows: ()
    holdout: Sequence[Encoded] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What a model did with one example: everything that a metric may read."""

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
    subject: str | None = None
    mean: tuple[float, ...] = ()  # of log p over the vocabulary, weighted by p, at each scored token, nats
    deviation: tuple[float, ...] = ()  # its standard deviation, nats
    restated: tuple[float, ...] | None = None  # logp of the answer restated
    wrong: tuple[tuple[float, ...], ...] = ()  # logp of each wrong answer
    grad_norm: float | None = None  # of the mean NLL's gradient in the trained weights, where it was requested
    judged: float | None = None  # does what was generated reveal the answer, in [0, 1], by the run's judge
    start_nll: float | None = None  # of `generated` under the start model, where it was scored: mean of its tokens, nats
    shuffled_nll: float | None = None  # the same of the tokens shuffled
    start_tokens: int | None = None  # how many they are, without the end of turn
    cut: bool | None = None  # did what was generated reach the limit of tokens before its end?
    beyond: bool = False  # and does the right answer say the fact only beyond that limit?
    restated_answer: str | None = None  # the text of `restated`
    wrong_answers: tuple[str, ...] = ()  # the texts of `wrong`
    reasoning: str | None = None  # what the model thought before the answer, where its template opens a block for that
    reasoning_cut: bool = False  # did that not end within its limit?
