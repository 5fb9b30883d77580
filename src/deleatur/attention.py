"""Attention over sequences that lie end to end in one row, without padding and without a mask over the whole row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

SHORT = 256  # tokens; above it torch's own kernel is as fast on CPU and does not keep L² numbers
PREFIX = "packed_"
OWN = ("sdpa", "eager")  # the implementations that we stand before
_lengths: ContextVar[Sequence[int] | None] = ContextVar("lengths", default=None)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pack:
    """Sequences end to end: their lengths, and whom each token of the longest may look at (causal, or within a window).

    The other sequences look as its beginning does. It goes through the decoder in the place of a mask.
    """

    lengths: tuple[int, ...]
    seen: Bool[Tensor, "L L"]
    causal: bool  # is `seen` nothing but the lower triangle?
    bias: Float[Tensor, "S S"]  # its first SHORT rows and columns as 0 and −inf, fp32


@contextmanager
def packed(lengths: Sequence[int]) -> Iterator[None]:
    """Within, a model that attends through `attend` takes its one row of ids for sequences of these lengths."""
    token = _lengths.set(lengths)
    try:
        yield
    finally:
        _lengths.reset(token)


def attend_through(lm: PreTrainedModel, yes: bool = True) -> bool:
    """Let a model attend through `attend`, or as it did before; says whether it now does.

    Outside `packed` nothing changes: forward, cache and generation are the model's own.
    """
    config, name = lm.config, lm.config._attn_implementation or ""
    own = name.removeprefix(PREFIX)
    if own not in OWN:  # somebody's own choice, as flash attention
        return False
    AttentionInterface.register(PREFIX + own, attend)
    AttentionMaskInterface.register(PREFIX + own, partial(_mask, own))
    config._attn_implementation = PREFIX + own if yes else own
    return yes


def _mask(own: str, *, mask_function: Callable, device: torch.device | str = "cpu", **shape: Any) -> Any:
    """A Pack within `packed`, elsewhere the mask that the model would have had."""
    lengths = _lengths.get()
    if lengths is None:
        return AttentionMaskInterface()[own](mask_function=mask_function, device=device, **shape)
    longest = max(lengths)
    first = sum(lengths[: lengths.index(longest)])
    at = torch.arange(first, first + longest, device=device)
    seen = mask_function(0, 0, at[:, None], at[None, :]).expand(longest, longest)
    corner = seen[:SHORT, :SHORT]
    return Pack(
        lengths=tuple(lengths),
        seen=seen,
        causal=bool((seen == (at[:, None] >= at)).all()),
        bias=torch.zeros(corner.shape, device=device).masked_fill_(~corner, -torch.inf),
    )


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: by `packed_attention` under a Pack, elsewhere as the model would have done."""
    if isinstance(attention_mask, Pack):
        options = {name: rest[name] for name in ("scaling", "softcap", "dropout") if rest.get(name) is not None}
        return packed_attention(query, key, value, attention_mask, **options), None
    own = str(module.config._attn_implementation).removeprefix(PREFIX)  # pyright: ignore[reportAttributeAccessIssue]
    family = sys.modules[type(module).forward.__module__]
    theirs = family.ALL_ATTENTION_FUNCTIONS.get_interface(own, getattr(family, "eager_attention_forward", None))
    return theirs(module, query, key, value, attention_mask, **rest)


def packed_attention(
    query: Float[Tensor, "1 H T D"],
    key: Float[Tensor, "1 K T D"],
    value: Float[Tensor, "1 K T E"],
    pack: Pack,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "1 T H E"]:
    """H query heads share K key-value heads. Equals, for each sequence, its key and value heads repeated H/K times,

        scores = query @ key.transpose(-1, -2) * scaling            (softcap · tanh(scores / softcap) where there is one)
        scores.masked_fill(~seen, -inf).float().softmax(-1) @ value

    Short sequences go by matrix products in fp32 whatever the type, the query heads of one key-value head as the rows of one
    matrix; long ones by torch's kernel.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = {"scaling": scaling, "softcap": softcap, "dropout": dropout}
    each = zip(*(x.squeeze(0).split(pack.lengths, 1) for x in (query, key, value)), strict=True)
    parts = [(_short if q.shape[1] <= SHORT or softcap is not None else _long)(q, k, v, pack, **options) for q, k, v in each]
    return torch.cat(parts)[None]


def _short(
    q: Float[Tensor, "H L D"],
    k: Float[Tensor, "K L D"],
    v: Float[Tensor, "K L E"],
    pack: Pack,
    *,
    scaling: float,
    softcap: float | None,
    dropout: float,
) -> Float[Tensor, "L H E"]:
    (heads, length, width), shared = q.shape, len(k)
    scores = (q.float() * scaling).reshape(shared, -1, width) @ k.float().transpose(1, 2)
    scores = scores.view(heads, length, length)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if length <= SHORT:
        scores = scores.add_(pack.bias[:length, :length])
    else:
        scores = scores.masked_fill(~pack.seen[:length, :length], -torch.inf)
    p = scores.softmax(-1)
    p = drop(p, dropout) if dropout else p
    out = p.view(shared, -1, length) @ v.float()
    return out.view(heads, length, -1).transpose(0, 1).to(q.dtype)


def _long(q: Tensor, k: Tensor, v: Tensor, pack: Pack, *, scaling: float, softcap: None, dropout: float) -> Tensor:
    length = q.shape[1]
    mask = None if pack.causal else pack.seen[:length, :length]
    out = scaled_dot_product_attention(
        q[None], k[None], v[None], mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=len(q) != len(k)
    )
    return out[0].transpose(0, 1)
