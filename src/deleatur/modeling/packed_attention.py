"""Attention over sequences that lie in one row, common beginnings once, without padding or a mask over the whole row.

`packed_attention` is usable alone; `attention_interface` gives it to a transformers model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention

SHORT = 256  # tokens; above it torch's own kernel is as fast on CPU and does not keep L² numbers


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
    new_tokens: tuple[int, ...]  # how many tokens a sequence brings: its last ones, behind those of the sequences before it
    pieces: tuple[int, ...]  # lengths of the parts of which the sequences consist
    paths: tuple[tuple[int, ...], ...]  # which parts each sequence is
    cache: KeyValueCache | None = None  # where its keys and values are kept, if it is to grow


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """A tree, and which tokens each token of its longest sequence attends to (causal, or within a window).

    The other sequences attend as its beginning does. `make_pack` builds one; in the decoder it takes the place of a mask.
    """

    tree: PrefixTree
    seen: Bool[Tensor, "L L"]
    causal: bool  # is `seen` nothing but the lower triangle?
    bias: Float[Tensor, "S S"]  # its first SHORT rows and columns as 0 and −inf, fp32


def share(rows: Sequence[Sequence[int]], cache: KeyValueCache | None = None) -> PrefixTree:
    """The tree of some sequences, each of one token at least."""
    where: dict[tuple[int, int], int] = {}  # (place of the token before, token) → place
    places, new_tokens, cuts = [], [], {0}
    for row in rows:
        known, place, path = len(where), -1, []
        for token in row:
            place = where.setdefault((place, token), len(where))
            path.append(place)
        places.append(torch.tensor(path))
        new_tokens.append(len(where) - known)
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
        new_tokens=tuple(new_tokens),
        pieces=tuple(b - a for a, b in pairwise(starts)),
        paths=tuple(tuple(piece[p] for p in path.tolist() if p in piece) for path in places),
        cache=cache,
    )


def make_pack(rows: Sequence[Sequence[int]], *, window: int | None = None) -> Pack:
    """The causal pack of some sequences, for `packed_attention` outside of a model.

    Args:
        rows: Token ids of each sequence, at least one each. What a sequence has in common with the beginning of an earlier
            one lies in the row once.
        window: Tokens that a token attends to, itself among them, at least 1; none: all before it.

    Returns:
        The sequences as one row, `pack.tree.ids`, with the mask of its attention.
    """
    at = torch.arange(max(map(len, rows)))
    seen = at[:, None] >= at
    if window is not None:
        seen &= at[:, None] - at < window
    return pack_of(share(rows), seen, causal=window is None)


def pack_of(tree: PrefixTree, seen: Bool[Tensor, "L L"], *, causal: bool) -> Pack:
    """A pack by its tree and mask."""
    corner = seen[:SHORT, :SHORT]
    bias = torch.zeros(corner.shape, device=seen.device).masked_fill(~corner, -torch.inf)
    return Pack(tree=tree, seen=seen, causal=causal, bias=bias)


class Scoring(NamedTuple):
    """How queries and keys become weights."""

    scaling: float
    softcap: float | None = None
    dropout: float = 0.0

    def capped(self, scores: Tensor) -> Tensor:
        """The scores with the soft cap of some families."""
        return scores if self.softcap is None else torch.tanh(scores / self.softcap) * self.softcap


def packed_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 K T D"],
    value: Float[Tensor, "1 K T E"],
    pack: Pack,
    how: Scoring | None = None,
) -> Float[Tensor, "1 T H E"]:
    """Attention of sequences that lie in one row without padding; H query heads share K key-value heads.

    The plain code that it replaces, where `places` says which of the row's tokens a sequence consists of:

        out = query.new_zeros(*query.shape[:3], value.shape[-1])
        for places in pack.tree.places:
            q, k, v = query[:, :, places], key[:, :, places], value[:, :, places]
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
            scores = q @ k.transpose(-1, -2) / query.shape[-1] ** 0.5
            seen = pack.seen[: len(places), : len(places)]
            out[:, :, places] = scores.masked_fill(~seen, -torch.inf).float().softmax(-1).to(v.dtype) @ v
        out = out.transpose(1, 2)

    Sequences of up to 256 tokens go by matrix products in fp32 whatever the type, the query heads of one key-value head as
    the rows of one matrix; longer ones by torch's scaled_dot_product_attention. Common beginnings are computed once.

    Args:
        query: Queries of the T tokens of the row, (1, H, T, D).
        key: Keys, (1, K, T, D); K divides H.
        value: Values, (1, K, T, E).
        pack: The sequences, from `make_pack`.
        how: Scaling (default: D**-0.5), soft cap of the scores, dropout of the weights.

    Returns:
        (1, T, H, E), in the type of the query.

    Examples:
        >>> from deleatur.modeling.packed_attention import make_pack, packed_attention
        >>> pack = make_pack([[5, 6, 7], [8, 9]])  # five tokens in one row
        >>> query, key, value = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
        >>> out = packed_attention(query, key, value, pack)
        >>> alone = [x[:, :, 3:] for x in (query, key, value)]  # the second sequence by torch's own attention
        >>> plain = torch.nn.functional.scaled_dot_product_attention(*alone, is_causal=True, enable_gqa=True)
        >>> torch.allclose(out[:, 3:], plain.transpose(1, 2), atol=1e-6)
        True
    """
    how = how or Scoring(query.shape[-1] ** -0.5)
    queries = query.squeeze(0).split(pack.tree.new_tokens, 1)  # a select's gradient would fill and copy the whole
    each = zip(queries, split_sequences(key, pack.tree), split_sequences(value, pack.tree), strict=True)
    parts = [
        (_short if q.shape[1] <= SHORT or how.softcap is not None else _long)(q, k, v, pack, how)
        for q, k, v in each
        if q.shape[1]
    ]
    return torch.cat(parts)[None]


def split_sequences(x: Float[Tensor, "1 K T D"], tree: PrefixTree) -> list[Float[Tensor, "K L D"]]:
    """Each sequence's tokens."""
    pieces = x.squeeze(0).split(tree.pieces, 1)
    return [pieces[path[0]] if len(path) == 1 else torch.cat([pieces[i] for i in path], 1) for path in tree.paths]


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
