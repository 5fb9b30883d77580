"""What a model that was never trained on the forget rows would say there: at which NLL, and what instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deleatur.data.spacing import evenly_spaced
from deleatur.importance.novelty import copied
from deleatur.modeling.reference import last_states
from deleatur.modeling.start_pass import StartPass
from deleatur.protocols import Importance
from deleatur.settings import SELECTED
from deleatur.types import Encoded, Teacher, TokenOutputs

NEAREST = 16  # retain positions that a forget position is compared with
ROWS = 1000  # most retain rows looked through
NEW, BEGUN, CONTINUED = range(3)  # kinds of tokens: not in the prompt; in it, after one that is not; after one that is
MAX_CONTINUED = 0.5  # nats, the highest level of the last: a word that has begun remains the likeliest to go on
TEMPERATURE = 0.2  # of the cosines by which similar retain states and the state itself are averaged


class Level(NamedTuple):
    """NLL that forget tokens should have, nats: the mean over selected ones, where it is from, and that of each token."""

    nll: float
    source: str
    of: Mapping[Encoded, Float[Tensor, " n"]] = MappingProxyType({})  # each forget row's scored tokens

    def at(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        """The level of each of these forget tokens."""
        return torch.cat([self.of[row] for row in tokens.rows]).to(tokens.nll.device)


@torch.no_grad()
def unseen_level(start: StartPass, rows: Mapping[str, list[Encoded]], importance: Importance) -> Level | None:
    """The level of unseen rows at the start model; None where no token is selected, or, without holdout rows, all of them.

    With holdout rows the forget tokens in order of their importance, equals by their own NLL, get the NLLs of the holdout
    tokens in order of size, so that both sides end with the same distribution: as many unlikely tokens, as unlikely. Words
    that the prompt already says are distributions of their own, their first token and the others, which get `MAX_CONTINUED`
    at most: whether a name comes next is unsure, but once begun it is copied, also one that nobody knows.
    Without, a selected token gets an estimate, the mean NLL of what follows the `NEAREST` most similar retain states, the
    token itself taken out of the prediction; the others keep their own. No token's level is below its own NLL.
    """
    weights, own = _weighted_nll(start, rows["forget"], importance)
    chosen, unseen = weights > SELECTED, rows.get("holdout", ())
    if not bool(chosen.any()) or (bool(chosen.all()) and not unseen):
        return None
    if unseen:
        held = {row: made.nll for row, made in start.of(unseen)}
        level, source = _as_unseen(rows["forget"], weights, own, held), f"{len(unseen)} holdout rows"
    else:
        estimate = torch.full_like(own, _estimate(start, rows, chosen))
        level, source = torch.where(chosen, estimate, own), "estimated from similar retain rows"
    of = dict(
        zip(rows["forget"], torch.maximum(level, own).split([len(r.ids) - r.start for r in rows["forget"]]), strict=True)
    )
    return Level(float((weights * level).sum() / weights.sum()), source, of)


def _as_unseen(
    forget: Sequence[Encoded],
    weights: Float[Tensor, " n"],
    own: Float[Tensor, " n"],
    held: Mapping[Encoded, Float[Tensor, " m"]],
) -> Float[Tensor, " n"]:
    """The holdout rows' NLLs by rank, within each kind of token."""
    nll, level = torch.cat(list(held.values())), torch.empty_like(own)
    mine, theirs = (torch.cat([_kind(row) for row in part]) for part in (forget, held))
    for kind in (NEW, BEGUN, CONTINUED):
        part, of = mine == kind, theirs == kind
        if bool(part.any()):
            level[part] = _by_rank(weights[part], own[part], nll[of] if bool(of.any()) else nll)
    return torch.where(mine == CONTINUED, level.clamp(max=MAX_CONTINUED), level)


def _kind(row: Encoded) -> Int[Tensor, " n"]:
    """Of each scored token: does it say something new, or words of the prompt, and then after another such token?"""
    said = copied(row)
    return torch.where(said, torch.where(torch.nn.functional.pad(said, (1, 0))[:-1], CONTINUED, BEGUN), NEW)


def _by_rank(weights: Float[Tensor, " n"], own: Float[Tensor, " n"], unseen: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """The unseen NLLs in order of size, dealt out to the n tokens in order of weight, equal ones in order of their own NLL:
    each gets the mean of its n-th part."""
    n, m, nll = len(weights), len(unseen), unseen.double().sort().values
    edges = torch.arange(n + 1) * m / n
    below = edges.floor().long().clamp(max=m - 1)
    up_to = torch.nn.functional.pad(nll.cumsum(0), (1, 0))[below] + (edges - below) * nll[below]
    order = own.argsort()
    order = order[weights[order].argsort(stable=True)]
    return torch.empty_like(own).scatter(0, order, (up_to.diff() * n / m).float())


@torch.no_grad()
def blended(teacher: Teacher, start: StartPass, rows: Mapping[str, list[Encoded]], importance: Importance) -> Teacher:
    """The teacher, but where the importance selects a forget token with the mean of its state and the `NEAREST` most similar
    retain states, each weighted by exp(cosine/TEMPERATURE).

    Of a row learned by heart the start model says little but the token: what it would say otherwise is spellings of the
    same token and noise. Similar retain contexts go on with whole words; the less similar they are, the less they weigh.
    """
    retain = torch.cat([states for states, _ in last_states(start, evenly_spaced(rows["retain"], ROWS))])
    keys = torch.nn.functional.normalize(retain.float(), dim=-1)
    other: dict[Encoded, tuple[Tensor, Tensor]] = {}  # which positions are selected, and their blended states
    for tokens in start.outputs(rows["forget"], importance.requires):
        chosen = (importance(tokens) > SELECTED).split([len(row.ids) - row.start for row in tokens.rows])
        for row, (before, _), places in zip(tokens.rows, last_states(start, tokens.rows), chosen, strict=True):
            own = before[places]
            near = (torch.nn.functional.normalize(own.float(), dim=-1) @ keys.T).topk(min(NEAREST, len(keys)), dim=1)
            cosines = torch.nn.functional.pad(near.values, (1, 0), value=1.0)  # its own is the first
            found = torch.cat([own[:, None], retain[near.indices]], 1).float()
            mean = (cosines / TEMPERATURE).softmax(1)[:, None] @ found
            other[row] = places.cpu(), mean[:, 0].to(own.dtype).cpu()

    def states(wanted: Sequence[Encoded]) -> Float[Tensor, "N D"]:
        """Of each row the start model's states, the selected ones of forget rows blended."""
        made = [teacher.states([])]
        for row in wanted:
            own = teacher.states([row])
            if row in other:
                places, mean = other[row]
                own = own.clone()
                own[places.to(own.device)] = mean.to(own.device)
            made.append(own)
        return torch.cat(made)

    return Teacher(states=states, head=teacher.head)


def _weighted_nll(
    start: StartPass, rows: Sequence[Encoded], importance: Importance
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Importance and NLL of the rows' scored tokens, row by row; marked spans stand in where the importance is unknown."""
    made: dict[Encoded, tuple[Tensor, Tensor]] = {}
    for tokens in start.outputs(rows, importance.requires):
        counts = [len(row.ids) - row.start for row in tokens.rows]
        parts = (x.float().cpu().split(counts) for x in (importance(tokens), tokens.nll))
        for row, known, nll in zip(tokens.rows, *parts, strict=True):
            gold = torch.tensor(row.gold or [False] * len(known), dtype=torch.float32)
            made[row] = torch.where(known.isnan(), gold, known), nll
    weights, nll = ([made[row][k] for row in rows] for k in (0, 1))
    return torch.cat([torch.empty(0), *weights]), torch.cat([torch.empty(0), *nll])


def _estimate(start: StartPass, rows: Mapping[str, list[Encoded]], chosen: Tensor, chunk: int = 256) -> float:
    """Mean over the chosen tokens of −log q(what similar retain states are followed by), q without the token itself."""
    forget, retain = (last_states(start, part) for part in (rows["forget"], evenly_spaced(rows["retain"], ROWS)))
    states, scored = (torch.cat([one[k] for one in forget])[chosen.to(start.model.device)] for k in (0, 1))
    others, followers = (torch.cat([one[k] for one in retain]) for k in (0, 1))
    keys, head, found = torch.nn.functional.normalize(others.float(), dim=-1), start.model.open_head(), []
    for state, token in zip(states.split(chunk), scored.split(chunk), strict=True):
        near = (torch.nn.functional.normalize(state.float(), dim=-1) @ keys.T).topk(min(NEAREST, len(keys)), dim=1).indices
        logq = head(state).float().scatter(1, token[:, None], float("-inf")).log_softmax(-1)
        nll = -logq.gather(1, followers[near])
        found.append(nll[nll.isfinite()])  # the token itself may follow there too
    values = torch.cat(found)
    return float(values.mean()) if len(values) else 0.0
