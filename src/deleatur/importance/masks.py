"""Importance that is made once, before training, and then looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deleatur.errors import DataError
from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Encoded, Start, TokenOutputs

ROUNDING = 1e-6  # a value no further than this from its threshold counts as equal to it: means of equal values are rounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """Values kept by row; a row that has none gives NaN."""

    requires = Requirements()

    values: dict[Encoded, Tensor]

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        import torch

        unknown = (torch.full((len(row.ids) - row.start,), torch.nan) for row in tokens.rows)
        found = [self.values.get(row, none) for row, none in zip(tokens.rows, unknown, strict=True)]
        return torch.cat([torch.empty(0), *found]).to(tokens.nll.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spans:
    """1 on the characters that a person has marked, 0 elsewhere: ground truth, or a deletion request to the letter.

    Examples:
        >>> from deleatur.importance import Spans
        >>> importance = Spans().prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> values.tolist() == [float(g) for g in start.forget[0].gold]
        True
    """

    requires = Requirements(inputs=("spans in the forget rows",))

    def prepare(self, start: Start) -> Fixed:
        """Raises DataError where a row to forget has no spans."""
        import torch

        if bare := [row.example.id for row in start.forget if row.gold is None]:
            raise DataError(f"{len(bare)} forget rows have no spans, {bare[0]} first; mark them, or take another importance")
        return Fixed(values={row: torch.tensor(row.gold, dtype=torch.float32) for row in start.forget})


@dataclass(frozen=True, kw_only=True, slots=True)
class SEUL:
    """1 where log p under the start model is below the answer's mean by k deviations, small gaps filled (2402.05813).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import SEUL
        >>> importance = SEUL().prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> sorted({*values.tolist()} - {0.0, 1.0})
        []
    """

    requires = Requirements(start_pass=True)

    k: float = 0.0
    """Standard deviations added to the mean."""
    gap: int = 2
    """Longest run of unselected tokens between selected ones that is filled, 0 or more."""

    def __post_init__(self) -> None:
        require(True, "importance.k", self.k, "a number")
        require(self.gap >= 0, "importance.gap", self.gap, "0 or more")

    def prepare(self, start: Start) -> Fixed:
        """One pass of the start model over the forget rows."""
        likelihoods = start.likelihood(start.forget, None)
        chosen = [_threshold(-one.nll, self.k) + one.nll > ROUNDING for one in likelihoods]
        return Fixed(values={r: fill(c, self.gap).float() for r, c in zip(start.forget, chosen, strict=True)})


@dataclass(frozen=True, kw_only=True, slots=True)
class SULLM:
    """1 where fine-tuning changed p by more than the answer's mean and k deviations, widened (SU, 2506.00876).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import SULLM
        >>> importance = SULLM(base="tiny").prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> sorted({*values.tolist()} - {0.0, 1.0})
        []
    """

    requires = Requirements(start_pass=True, inputs=("the model before fine-tuning",))

    base: str | None = None
    """Model before it was fine-tuned: name on the hub, folder, or .gguf file. Needed."""
    k: float = 0.0
    """Standard deviations added to the mean."""
    widen: int = 2
    """Tokens on either side that a selected one takes with it, 0 or more."""

    def __post_init__(self) -> None:
        require(True, "importance.k", self.k, "a number")
        require(self.widen >= 0, "importance.widen", self.widen, "0 or more")

    def with_base(self, base: str | None) -> SULLM:
        """The same settings with another base model."""
        return replace(self, base=base)

    def check_base(self) -> None:
        """Raises ConfigError without a base model."""
        require(self.base is not None, "importance.base", self.base, "the model before fine-tuning")

    def prepare(self, start: Start) -> Fixed:
        """One pass of each model over the forget rows."""
        self.check_base()
        now, before = start.likelihood(start.forget, None), start.likelihood(start.forget, self.base)
        moved = [((-a.nll).exp() - (-b.nll).exp()).abs() for a, b in zip(now, before, strict=True)]
        return _above(start.forget, moved, self.k, self.widen)


@dataclass(frozen=True, kw_only=True, slots=True)
class SUNgram:
    """1 where n-gram tables of forget and of retain rows disagree most on a token's probability, widened (SU, 2506.00876).

    p is count(context, token) / count(context) over whole rows, prompts included; a context never met gives 0.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import SUNgram
        >>> importance = SUNgram().prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> sorted({*values.tolist()} - {0.0, 1.0})
        []
    """

    requires = Requirements()

    n: int = 3
    """Tokens in a gram, at least 1."""
    k: float = 0.0
    """Standard deviations added to the mean."""
    widen: int = 2
    """Tokens on either side that a selected one takes with it, 0 or more."""

    def __post_init__(self) -> None:
        require(self.n >= 1, "importance.n", self.n, "1 or more")
        require(True, "importance.k", self.k, "a number")
        require(self.widen >= 0, "importance.widen", self.widen, "0 or more")

    def prepare(self, start: Start) -> Fixed:
        """Counts rows; no model is used."""
        import torch

        tables = [self._count(rows) for rows in (start.forget, start.retain)]
        moved = []
        for row in start.forget:
            p, q = ([self._p(table, row.ids, i) for i in range(row.start, len(row.ids))] for table in tables)
            moved.append((torch.tensor(p) - torch.tensor(q)).abs())
        return _above(start.forget, moved, self.k, self.widen)

    def _count(self, rows: Sequence[Encoded]) -> tuple[Counter, Counter]:
        ends = [(row.ids, i) for row in rows for i in range(len(row.ids))]
        grams = Counter(self._gram(ids, i) for ids, i in ends)
        return grams, Counter(self._gram(ids, i)[:-1] for ids, i in ends)

    def _p(self, tables: tuple[Counter, Counter], ids: Sequence[int], i: int) -> float:
        gram, contexts = self._gram(ids, i), tables[1]
        return tables[0][gram] / contexts[gram[:-1]] if contexts[gram[:-1]] else 0.0

    def _gram(self, ids: Sequence[int], i: int) -> tuple[int, ...]:
        return tuple(ids[max(0, i - self.n + 1) : i + 1])


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenUnlearn:
    """mix·|log p − log p without the prompt| + (1 − mix)·entropy under the start model, soft or the top share (2605.00364).

    Each of the two is scaled to [0, 1] within the answer before they are mixed (an answer of one token gets 0), and the
    prompt is hidden behind copies of the answer's last token, its end: both our reading, the paper's text was not available.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import TokenUnlearn
        >>> importance = TokenUnlearn(share=0.5).prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> sorted({*values.tolist()} - {0.0, 1.0})
        []
    """

    requires = Requirements(start_pass=True)

    mix: float = 0.5
    """Share of the first signal, in [0, 1]."""
    share: float | None = None
    """Share of an answer's tokens that get 1, in (0, 1], the others 0; none gives the values themselves."""

    def __post_init__(self) -> None:
        require(0 <= self.mix <= 1, "importance.mix", self.mix, "in [0, 1]")
        require(self.share is None or 0 < self.share <= 1, "importance.share", self.share, "in (0, 1]")

    def prepare(self, start: Start) -> Fixed:
        """Two passes of the start model over the forget rows, one of them with the prompts hidden."""
        hidden = [replace(row, ids=row.ids[-1:] * row.start + row.ids[row.start :]) for row in start.forget]
        seen, unseen = start.likelihood(start.forget, None), start.likelihood(hidden, None)
        values = [
            self.mix * _unit((b.nll - a.nll).abs()) + (1 - self.mix) * _unit(a.entropy)
            for a, b in zip(seen, unseen, strict=True)
        ]
        chosen = values if self.share is None else [top(v, self.share) for v in values]
        return Fixed(values=dict(zip(start.forget, chosen, strict=True)))


def fill(chosen: Tensor, gap: int) -> Tensor:
    """The choice with runs of at most `gap` unchosen tokens between chosen ones filled."""
    out, last = chosen.clone(), None
    for i in chosen.nonzero().flatten().tolist():
        if last is not None and i - last - 1 <= gap:
            out[last:i] = True
        last = i
    return out


def widen(chosen: Tensor, by: int) -> Tensor:
    """The choice with `by` more tokens on either side of each chosen one."""
    out = chosen.clone()
    for i in chosen.nonzero().flatten().tolist():
        out[max(0, i - by) : i + by + 1] = True
    return out


def top(values: Tensor, share: float) -> Tensor:
    """1 for the largest `share` of the values, at least one of them, 0 for the others; the earlier of equals comes first."""
    out = values.new_zeros(len(values))
    out[values.argsort(descending=True, stable=True)[: max(1, round(share * len(values)))]] = 1
    return out


def _above(rows: Sequence[Encoded], values: Sequence[Tensor], k: float, by: int) -> Fixed:
    chosen = [widen(v - _threshold(v, k) > ROUNDING, by).float() for v in values]
    return Fixed(values=dict(zip(rows, chosen, strict=True)))


def _threshold(values: Tensor, k: float) -> Tensor:
    return values.mean() + k * values.std(correction=0)


def _unit(values: Tensor) -> Tensor:
    """From 0, the smallest, to 1, the largest; all 0 where they are equal."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread.clamp(min=1e-12)
