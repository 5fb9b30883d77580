"""`packed_attention` as an attention implementation of transformers models, with a cache for generation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionMaskInterface, PreTrainedModel

from deleatur.modeling.packed_attention import (
    KeyValueCache,
    Pack,
    PrefixTree,
    Scoring,
    pack_of,
    packed_attention,
    split_sequences,
)
from deleatur.modeling.patches import register_attention, set_attention

BLOCK = 32  # tokens by which what grows is made longer: oneDNN copies what is only a part of a matrix
PREFIX = "packed_"
OWN = ("sdpa", "eager")  # the implementations that this one stands before


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CachedRows:
    """One more token for each of B sequences."""

    cache: KeyValueCache
    at: Int[Tensor, " B"]  # their positions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Next:
    """One more token for each sequence, and what it may look at. In the place of a mask, as a Pack."""

    cached: CachedRows
    bias: Float[Tensor, "B 1 1 L"]  # 0 and −inf, fp32


_running: ContextVar[PrefixTree | CachedRows | None] = ContextVar("running", default=None)


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
    name = (lm.config._attn_implementation or "").removeprefix(PREFIX)
    if name not in OWN:  # somebody's own choice, as flash attention
        return False
    register_attention(PREFIX + name, attend, partial(_mask, name))
    set_attention(lm, PREFIX + name if yes else name)
    return yes


def _mask(name: str, *, mask_function: Callable, device: torch.device | str = "cpu", **shape: Any) -> Any:
    """A Pack or a Next within `packed`, elsewhere the mask that the model would have had."""
    running = _running.get()
    if running is None:
        return AttentionMaskInterface()[name](mask_function=mask_function, device=device, **shape)
    if isinstance(running, CachedRows):
        at, blocks = running.at[:, None], int(running.at.max()) // BLOCK + 1
        keys = torch.arange(blocks * BLOCK, device=device)
        bias = torch.zeros(len(at), len(keys), device=device)
        bias.masked_fill_(~mask_function(0, 0, at, keys).expand_as(bias), -torch.inf)
        return Next(cached=running, bias=bias[:, None, None])
    at = torch.arange(max(map(len, running.places)), device=device)
    seen = mask_function(0, 0, at[:, None], at[None, :]).expand(len(at), len(at))
    return pack_of(running, seen, causal=bool((seen == (at[:, None] >= at)).all()))


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **rest: Any
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention interface: ours under a Pack or a Next, elsewhere as the model would have done."""
    scaling, dropout = rest.get("scaling"), rest.get("dropout") or 0.0
    how = Scoring(query.shape[-1] ** -0.5 if scaling is None else scaling, rest.get("softcap"), dropout)
    match attention_mask:
        case Pack():
            if (cache := attention_mask.tree.cache) is not None:
                cache.layers[module] = [_slots(x, attention_mask.tree) for x in (key, value)]
            return packed_attention(query, key, value, attention_mask, how), None
        case Next():
            return next_attention(module, query, key, value, attention_mask, how), None
    name = str(module.config._attn_implementation).removeprefix(PREFIX)  # pyright: ignore[reportAttributeAccessIssue]
    family = sys.modules[type(module).forward.__module__]
    original = family.ALL_ATTENTION_FUNCTIONS.get_interface(name, getattr(family, "eager_attention_forward", None))
    return original(module, query, key, value, attention_mask, **rest)


def _slots(x: Float[Tensor, "1 K T D"], tree: PrefixTree) -> Float[Tensor, "B K L D"]:
    """Each sequence's tokens, and zeros behind them."""
    return torch.stack([_longer(s, max(map(len, tree.places))) for s in split_sequences(x.float(), tree)])


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
    at, (heads, width) = mask.cached.at, (query.shape[1], query.shape[-1])
    layers, length = mask.cached.cache.layers, mask.bias.shape[-1]
    layers[module] = [_longer(x, length) for x in layers[module]]
    for kept, new in zip(layers[module], (key, value), strict=True):
        kept[torch.arange(len(at)), :, at] = new[0].transpose(0, 1).float()
    keys, values = (x[:, :, :length] for x in layers[module])
    grouped = query[0].transpose(0, 1).float().reshape(len(at), key.shape[1], -1, width)
    scores = grouped * how.scaling @ keys.transpose(2, 3)
    scores = how.capped(scores)
    p = (scores + mask.bias).softmax(-1)
    return (p @ values).reshape(1, len(at), heads, -1).to(query.dtype)
