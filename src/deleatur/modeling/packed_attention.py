"""Attention over sequences that lie in one row, common beginnings once, without padding or a mask over the whole row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionMaskInterface, PreTrainedModel

from deleatur.modeling.patches import register_attention, set_attention

SHORT = 256  # tokens; above it torch's own kernel is as fast on CPU and does not keep L² numbers
BLOCK = 32  # tokens by which what grows is made longer: oneDNN copies what is only a part of a matrix
PREFIX = "packed_"
OWN = ("sdpa", "eager")  # the implementations that we stand before


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KeyValueCache:
    """Keys and values of B sequences that grow by a token at a time, as each attention module left them, in fp32."""

    layers: dict[nn.Module, list[Float[Tensor, "_ _ _ _"]]] = field(default_factory=dict)  # B K L D, zeros behind the end

    def keep(self, kept: Sequence[int]) -> None:
        """Only these sequences, in this order."""
        for module, both in self.layers.items():
            self.layers[module] = [x[kept] for x in both]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PrefixTree:
    """Sequences in one row of T tokens. What one has in common with the beginning of an earlier one lies there alone."""

    ids: Int[Tensor, " T"]
    at: Int[Tensor, " T"]  # a token's position in its sequences
    places: tuple[Int[Tensor, " _"], ...]  # of each sequence's tokens
    own: tuple[int, ...]  # how many tokens a sequence brings: its last ones, behind those of the sequences before it
    pieces: tuple[int, ...]  # lengths of the parts of which the sequences consist
    paths: tuple[tuple[int, ...], ...]  # which parts each sequence is
    grown: KeyValueCache | None = None  # where its keys and values are kept, if it is to grow


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CachedRows:
    """One more token for each of B sequences."""

    grown: KeyValueCache
    at: Int[Tensor, " B"]  # their positions


_running: ContextVar[PrefixTree | CachedRows | None] = ContextVar("running", default=None)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """A tree, and whom each token of its longest sequence may look at (causal, or within a window).

    The other sequences look as its beginning does. It goes through the decoder in the place of a mask.
    """

    tree: PrefixTree
    seen: Bool[Tensor, "L L"]
    causal: bool  # is `seen` nothing but the lower triangle?
    bias: Float[Tensor, "S S"]  # its first SHORT rows and columns as 0 and −inf, fp32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Next:
    """One more token for each sequence, and what it may look at. In the place of a mask, as a Pack."""

    growing: CachedRows
    bias: Float[Tensor, "B 1 1 L"]  # 0 and −inf, fp32


def share(rows: Sequence[Sequence[int]], grown: KeyValueCache | None = None) -> PrefixTree:
    """The tree of some sequences, each of one token at least."""
    where: dict[tuple[int, int], int] = {}  # (place of the token before, token) → place
    places, own, cuts = [], [], {0}
    for row in rows:
        known, place, path = len(where), -1, []
        for token in row:
            place = where.setdefault((place, token), len(where))
            path.append(place)
        places.append(torch.tensor(path))
        own.append(len(where) - known)
        cuts |= {path[0], path[-1] + 1, *(end for a, b in pairwise(path) if b != a + 1 for end in (a + 1, b))}
    starts = sorted(cuts)
    piece = {start: i for i, start in enumerate(starts)}
    at = torch.empty(len(where), dtype=torch.long)
    for path in places:
        at[path] = torch.arange(len(path))
    return PrefixTree(
        ids=torch.tensor([token for _, token in where]),
        at=at,
        places=tuple(places),
        own=tuple(own),
        pieces=tuple(b - a for a, b in pairwise(starts)),
        paths=tuple(tuple(piece[p] for p in path.tolist() if p in piece) for path in places),
        grown=grown,
    )


@contextmanager
def packed(running: PrefixTree | CachedRows) -> Iterator[None]:
    """Within, a model that attends through `attend` takes its one row of ids for this."""
    token = _running.set(running)
    try:
        yield
    finally:
        _running.reset(token)


def set_packed_attention(lm: PreTrainedModel, yes: bool = True) -> bool:
    """Let a model attend through `attend`, or as it did before; says whether it now does.

    Outside `packed` nothing changes: forward, cache and generation are the model's own.
    """
    own = (lm.config._attn_implementation or "").removeprefix(PREFIX)
    if own not in OWN:  # somebody's own choice, as flash attention
        return False
    register_attention(PREFIX + own, attend, partial(_mask, own))
    set_attention(lm, PREFIX + own if yes else own)
    return yes


def _mask(own: str, *, mask_function: Callable, device: torch.device | str = "cpu", **shape: Any) -> Any:
    """A Pack or a Next within `packed`, elsewhere the mask that the model would have had."""
    running = _running.get()
    if running is None:
        return AttentionMaskInterface()[own](mask_function=mask_function, device=device, **shape)
    if isinstance(running, CachedRows):
        at, blocks = running.at[:, None], int(running.at.max()) // BLOCK + 1
        looked = torch.arange(blocks * BLOCK, device=device)
        bias = torch.zeros(len(at), len(looked), device=device)
        bias.masked_fill_(~mask_function(0, 0, at, looked).expand_as(bias), -torch.inf)
        return Next(growing=running, bias=bias[:, None, None])
    at = torch.arange(max(map(len, running.places)), device=device)
    seen = mask_function(0, 0, at[:, None], at[None, :]).expand(len(at), len(at))
    corner = seen[:SHORT, :SHORT]
    return Pack(
        tree=running,
        seen=seen,
        causal=bool((seen == (at[:, None] >= at)).all()),
        bias=torch.zeros(corner.shape, device=device).masked_fill_(~corner, -torch.inf),
    )


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: ours under a Pack or a Next, elsewhere as the model would have done."""
    scaling, dropout = rest.get("scaling"), rest.get("dropout") or 0.0
    how = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, rest.get("softcap"), dropout)
    match attention_mask:
        case Pack():
            if (grown := attention_mask.tree.grown) is not None:
                grown.layers[module] = [_slots(x, attention_mask.tree) for x in (key, value)]
            return packed_attention(query, key, value, attention_mask, how), None
        case Next():
            return next_attention(module, query, key, value, attention_mask, how), None
    own = str(module.config._attn_implementation).removeprefix(PREFIX)  # pyright: ignore[reportAttributeAccessIssue]
    family = sys.modules[type(module).forward.__module__]
    theirs = family.ALL_ATTENTION_FUNCTIONS.get_interface(own, getattr(family, "eager_attention_forward", None))
    return theirs(module, query, key, value, attention_mask, **rest)


class Scoring(NamedTuple):
    """How queries and keys become weights."""

    scaling: float
    softcap: float | None = None
    dropout: float = 0.0

    def capped(self, scores: Tensor) -> Tensor:
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap


def packed_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 K T D"],
    value: Float[Tensor, "1 K T E"],
    pack: Pack,
    how: Scoring | None = None,
) -> Float[Tensor, "1 T H E"]:
    """H query heads share K key-value heads. Equals, for each sequence, its key and value heads repeated H/K times,

        scores = query @ key.transpose(-1, -2) * scaling            (softcap · tanh(scores / softcap) where there is one)
        scores.masked_fill(~seen, -inf).float().softmax(-1) @ value

    where queries are only needed for the sequence that brings them. Short sequences go by matrix products in fp32 whatever
    the type, the query heads of one key-value head as the rows of one matrix; long ones by torch's kernel.
    """
    how = how or Scoring(query.shape[-1] ** -0.5)
    queries = query.squeeze(0).split(pack.tree.own, 1)  # a select's gradient would fill and copy the whole
    each = zip(queries, _sequences(key, pack.tree), _sequences(value, pack.tree), strict=True)
    parts = [
        (_short if q.shape[1] <= SHORT or how.softcap is not None else _long)(q, k, v, pack, how)
        for q, k, v in each
        if q.shape[1]
    ]
    return torch.cat(parts)[None]


def _sequences(x: Float[Tensor, "1 K T D"], tree: PrefixTree) -> list[Float[Tensor, "K L D"]]:
    """Each sequence's tokens."""
    pieces = x.squeeze(0).split(tree.pieces, 1)
    return [pieces[path[0]] if len(path) == 1 else torch.cat([pieces[i] for i in path], 1) for path in tree.paths]


def _slots(x: Float[Tensor, "1 K T D"], tree: PrefixTree) -> Float[Tensor, "B K L D"]:
    """Each sequence's tokens, and zeros behind them."""
    return torch.stack([_longer(s, max(map(len, tree.places))) for s in _sequences(x.float(), tree)])


def _longer(x: Float[Tensor, "*B L D"], length: int) -> Float[Tensor, "*B M D"]:
    return pad(x, (0, 0, 0, length - x.shape[-2])) if x.shape[-2] < length else x


def next_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H B D"],
    key: Float[Tensor, "1 K B D"],
    value: Float[Tensor, "1 K B E"],
    mask: Next,
    how: Scoring,
) -> Float[Tensor, "1 B H E"]:
    """`packed_attention` of the last tokens of B sequences, when those before them are in the cache."""
    at, (heads, width) = mask.growing.at, (query.shape[1], query.shape[-1])
    layers, length = mask.growing.grown.layers, mask.bias.shape[-1]
    layers[module] = [_longer(x, length) for x in layers[module]]
    for kept, new in zip(layers[module], (key, value), strict=True):
        kept[torch.arange(len(at)), :, at] = new[0].transpose(0, 1).float()
    keys, values = (x[:, :, :length] for x in layers[module])
    grouped = query[0].transpose(0, 1).float().reshape(len(at), key.shape[1], -1, width)
    scores = grouped * how.scaling @ keys.transpose(2, 3)
    scores = how.capped(scores)
    p = (scores + mask.bias).softmax(-1)
    return (p @ values).reshape(1, len(at), heads, -1).to(query.dtype)


def _short(
    q: Float[Tensor, "H N D"],
    k: Float[Tensor, "K L D"],
    v: Float[Tensor, "K L E"],
    pack: Pack,
    how: Scoring,
) -> Float[Tensor, "N H E"]:
    (heads, queries, width), (shared, length, _) = q.shape, k.shape
    scores = (q.float() * how.scaling).reshape(shared, -1, width) @ k.float().transpose(1, 2)
    scores = how.capped(scores.view(heads, queries, length))
    if length <= SHORT:
        scores = scores.add_(pack.bias[length - queries : length, :length])
    else:
        scores = scores.masked_fill(~pack.seen[length - queries : length, :length], -torch.inf)
    p = scores.softmax(-1)
    p = drop(p, how.dropout) if how.dropout else p
    out = p.view(shared, -1, length) @ v.float()
    return out.view(heads, queries, -1).transpose(0, 1).to(q.dtype)


def _long(q: Tensor, k: Tensor, v: Tensor, pack: Pack, how: Scoring) -> Tensor:
    queries, length = q.shape[1], k.shape[1]
    mask = None if pack.causal and queries == length else pack.seen[length - queries : length, :length]
    out = scaled_dot_product_attention(
        q[None], k[None], v[None], mask, how.dropout, is_causal=mask is None, scale=how.scaling, enable_gqa=len(q) != len(k)
    )
    return out[0].transpose(0, 1)
