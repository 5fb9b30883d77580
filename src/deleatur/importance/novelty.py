"""Importance from how new a token is compared with the retain rows: three tests in closed form, combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from deleatur.data.words import repeated
from deleatur.importance.masks import Fixed
from deleatur.requirements import Requirements
from deleatur.settings import require

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from deleatur.types import Encoded, HeadStates, Start

SHARPNESS = 8.0  # of the sigmoid over the log statistic: about a tenth of the tokens end between .05 and .95
TEMPERATURE = 0.05  # of the cosines by which similar retain states vote
MIN_PROBABILITY = 1e-3  # probability that the vote gives a token that no similar state was followed by
CHUNK = 512  # tokens whose similarities to all retain tokens are held at once
ROWS = 64  # rows whose states are held at once; of the retain rows all are, up to so many TOKENS
TOKENS = 2**15


@dataclass(frozen=True, kw_only=True, slots=True)
class Novelty:
    """sigmoid of Fisher's statistic of three novelty tests against the retain tokens, over a threshold (ours).

    - leverage x·(C + λI)⁻¹·x, the quantity of the theorem in docs/method.md: x holds the last hidden states before and at
      the token and the head's row for the token, each of length 1, C is the retain tokens' second moment. A token outside
      of what the retain rows span can be forgotten without touching what they share. It counts twice; a word that the
      prompt already says is copied from there, not remembered, and has none.
    - the token's own NLL: what was hard to learn would not be known without its row.
    - −log p of the token by a vote of the most similar retain states on what follows them (as in a kNN language model,
      1911.00172): what the retain rows would have predicted here.

    Each is turned into a p-value, the share of retain tokens as new compared with the other retain rows, and these are
    combined as −Σ log p. The tokens of largest statistic are selected, as many as there are tokens that the vote gives
    less than `surprise`. One pass of the start model; no label, no step, and no order of rows changes it. Of holdout rows,
    whose NLL is the level to reach, as large a share is selected, without the test of NLL.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.importance import Novelty
        >>> importance = Novelty().prepare(start)
        >>> values = importance.values[start.forget[0]]  # (n,), of the first row's n scored tokens
        >>> bool((values >= 0).all() and (values <= 1).all())
        True
    """

    requires = Requirements(start_pass=True)

    surprise: float = 0.6
    """Probability by the vote below which an uncopied token counts towards the share that is selected, in (0, 1)."""
    nearest: int = 16
    """Retain states that vote, at least 1."""
    ridge: float = 1e-3
    """λ over the mean of C's diagonal, above 0."""
    rows: int = 1000
    """Most retain rows compared with, spread evenly, at least 1."""

    def __post_init__(self) -> None:
        require(0 < self.surprise < 1, "importance.surprise", self.surprise, "in (0, 1)")
        require(self.ridge > 0, "importance.ridge", self.ridge, "above 0")
        for name, value in {"nearest": self.nearest, "rows": self.rows}.items():
            require(value >= 1, f"importance.{name}", value, "1 or more")

    def prepare(self, start: Start) -> Fixed:
        """One pass of the start model over forget, retain and holdout rows."""
        import torch

        from deleatur.data.spacing import evenly_spaced

        retain = evenly_spaced(start.retain, self.rows)
        mean = sum(len(row.ids) - row.start for row in retain) / len(retain)
        retain = within(evenly_spaced(retain, max(1, int(TOKENS / mean))), TOKENS)
        found = novelty(self, start, retain, start.forget, start.holdout)
        surprised = (found.vote < self.surprise) & ~found.copied
        sizes = [len(row.ids) - row.start for row in (*start.forget, *start.holdout)]
        forget = sum(sizes[: len(start.forget)])
        share = float(surprised[:forget].float().mean())
        values = torch.cat([_selecting(share, found.statistic[:forget]), _selecting(share, found.of_place[forget:])])
        return Fixed(values=dict(zip((*start.forget, *start.holdout), torch.split(values, sizes), strict=True)))


class Tests(NamedTuple):
    """What `novelty` finds of each scored token of the scored rows, in their order."""

    leverage: Float[Tensor, " N"]
    nll: Float[Tensor, " N"]  # nats
    vote: Float[Tensor, " N"]  # probability by similar retain states
    copied: Bool[Tensor, " N"]
    statistic: Float[Tensor, " N"]  # Fisher's, 0 or more
    of_place: Float[Tensor, " N"]  # the same without the test of the token's own NLL


def novelty(settings: Novelty, start: Start, retain: Sequence[Encoded], *scored: Sequence[Encoded]) -> Tests:
    """The tests of all scored tokens of the rows in `scored`, against the retain rows, each of these without itself."""
    import torch

    rows = [row for part in scored for row in part]
    held = _together(start.head_states(retain))
    factor, others = _factor(_keys(held), settings.ridge), _ids(retain)
    of_retain = _leverage(_keys(held), factor)
    left_out = of_retain / (1 - of_retain / len(of_retain)).clamp(min=1e-6)
    place = torch.repeat_interleave(torch.arange(len(retain)), torch.tensor([len(r.ids) - r.start for r in retain]))
    retain_vote = _vote(held.before, others, held.before, others, settings.nearest, place)
    parts = []
    for first in range(0, len(rows), ROWS):
        part = rows[first : first + ROWS]
        states = _together(start.head_states(part))
        vote = _vote(states.before, _ids(part), held.before, others, settings.nearest)
        parts.append((_leverage(_keys(states), factor), states.nll, vote))
    leverage, nll, vote = map(torch.cat, zip(*parts, strict=True))
    repeats = torch.cat([copied(row) for row in rows])
    unusual = _log_rarity(leverage, left_out).masked_fill(repeats, 0.0)
    of_place = 2 * unusual + _log_rarity(-vote, -retain_vote)
    statistic = of_place + _log_rarity(nll, held.nll)
    return Tests(leverage=leverage, nll=nll, vote=vote, copied=repeats, statistic=statistic, of_place=of_place)


def _selecting(share: float, statistic: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The statistic as importance, above .5 for that share of the tokens."""
    if not len(statistic):
        return statistic
    threshold = statistic.topk(max(1, round(share * len(statistic)))).values[-1].clamp(min=1e-6)
    return (SHARPNESS * (statistic.clamp(min=1e-6) / threshold).log()).sigmoid()


def within(rows: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """The rows up to so many scored tokens in all, at least one."""
    counts = accumulate(len(row.ids) - row.start for row in rows)
    return [row for row, count in zip(rows, counts, strict=True) if count <= tokens] or list(rows[:1])


def _ids(rows: Sequence[Encoded]) -> Int[Tensor, " N"]:
    """The rows' scored tokens."""
    import torch

    return torch.tensor([i for row in rows for i in row.ids[row.start :]])


def copied(row: Encoded) -> Bool[Tensor, " n"]:
    """Which scored tokens touch a word that the prompt already says."""
    import torch

    repeats = repeated(row.example.answer, " ".join(content for _, content in row.example.prompt))
    return torch.tensor([any(a < end and begin < b for begin, end in repeats) for a, b in row.offsets], dtype=torch.bool)


def _together(states: Sequence[HeadStates]) -> HeadStates:
    import torch

    return type(states[0])(*map(torch.cat, zip(*states, strict=True)))


def _keys(states: HeadStates) -> Float[Tensor, "N K"]:
    from torch import cat
    from torch.nn.functional import normalize

    return cat([normalize(s, dim=-1) for s in (states.before, states.at, states.token)], dim=1)


def _factor(keys: Float[Tensor, "N K"], ridge: float) -> Float[Tensor, "K K"]:
    """Cholesky factor of the keys' second moment with its ridge, fp64."""
    import torch

    moment = (keys.T @ keys / len(keys)).double()
    return torch.linalg.cholesky(moment + ridge * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype))


def _leverage(keys: Float[Tensor, "n K"], factor: Float[Tensor, "K K"]) -> Float[Tensor, " n"]:
    """x·M⁻¹·x of each key."""
    import torch

    solved = (torch.linalg.solve_triangular(factor, x.T.double(), upper=False) for x in keys.split(8 * CHUNK))
    return torch.cat([s.square().sum(0).float() for s in solved])


def _vote(
    states: Float[Tensor, "n D"],
    tokens: Int[Tensor, " n"],
    others: Float[Tensor, "m D"],
    followers: Int[Tensor, " m"],
    nearest: int,
    place: Int[Tensor, " m"] | None = None,
) -> Float[Tensor, " n"]:
    """Probability of each token by the `nearest` most similar of the other states; with `place`, the row that each state is
    in, those of the token's own row have no vote."""
    import torch
    from torch.nn.functional import normalize

    keys, out = normalize(others, dim=-1), [states.new_empty(0)]
    for first in range(0, len(states), CHUNK):
        part = slice(first, first + CHUNK)
        cosine = normalize(states[part], dim=-1) @ keys.T
        if place is not None:
            cosine = cosine.masked_fill(place[part, None] == place, -2.0)
        near = cosine.topk(min(nearest, len(keys)), dim=1)
        weight = ((near.values - 1) / TEMPERATURE).softmax(1)
        out.append((weight * (followers[near.indices] == tokens[part, None])).sum(1).clamp(min=MIN_PROBABILITY))
    return torch.cat(out)


def _log_rarity(values: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """−log of the share of the others that are at least as large; half a count more, so that it is never 0."""
    import torch

    below = torch.searchsorted(others.sort().values, values.contiguous())
    return -torch.log1p(-(below + 0.5) / (len(others) + 1))
