"""Greedy and sampled answers, many at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig

from deleatur.data.batches import collate
from deleatur.distributed.processes import is_sharded
from deleatur.errors import ModelError
from deleatur.modeling.attention_interface import CachedRows
from deleatur.modeling.packed_attention import KeyValueCache, share
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

COMPACT_BELOW = 7 / 8  # compact the KV cache when at most this share of the sequences is unfinished


def greedy(
    model: TokenModel, prompts: Sequence[Sequence[int]], *, ends: Collection[int], new_tokens: int
) -> list[list[int]]:
    """The likeliest next token again and again, up to one of `ends` (which is given too) or `new_tokens`. Equals, for each

        while len(generated) < new_tokens and not (generated and generated[-1] in ends):
            generated.append(int(lm(torch.tensor([[*prompt, *generated]])).logits[0, -1].argmax()))

    Rows that have ended leave the batch. A model that cannot be packed answers by transformers' `generate`; where padding
    on the left changes what it computes, as in recurrent models, prompts of one length go together, or each goes alone.
    """
    if not prompts:
        return []
    if model.packs and not is_sharded(model):
        return _packed(model, prompts, frozenset(ends), new_tokens, _likeliest)
    return _in_groups(model, prompts, frozenset(ends), new_tokens)


def sample(
    model: TokenModel,
    prompts: Sequence[Sequence[int]],
    *,
    ends: Collection[int],
    new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    """As `greedy`, each token drawn from the model's own distribution: temperature 1, nothing cut off.

    A prompt may stand there several times. `generator` lies on the CPU.
    """
    if not prompts:
        return []
    if model.packs and not is_sharded(model):
        return _packed(model, prompts, frozenset(ends), new_tokens, lambda logits, of: _drawn(logits, of, generator))
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return _in_groups(model, prompts, frozenset(ends), new_tokens, **how)


def _likeliest(logits: Float[Tensor, "S V"], of: Sequence[int]) -> list[int]:
    """The likeliest token of each row, `of` saying by which of the logits."""
    return logits.argmax(-1)[list(of)].tolist()


def _drawn(logits: Float[Tensor, "S V"], of: Sequence[int], generator: torch.Generator) -> list[int]:
    """A token for each row, drawn by the softmax of its logits: where its running sum passes a uniform number."""
    sums = logits.float().cpu().softmax(-1).double().cumsum(-1)
    numbers = torch.rand(len(of), generator=generator, dtype=torch.float64)
    return [int(torch.searchsorted(sums[i, :-1], u * sums[i, -1], right=True)) for i, u in zip(of, numbers, strict=True)]


def _in_groups(
    model: TokenModel, prompts: Sequence[Sequence[int]], ends: frozenset[int], new_tokens: int, **how: Any
) -> list[list[int]]:
    generated: list[list[int]] = [[] for _ in prompts]
    for together in _groups(model, prompts):
        answers = _padded(model, [prompts[b] for b in together], ends, new_tokens, **how)
        for b, answer in zip(together, answers, strict=True):
            generated[b] = answer
    return generated


def _groups(model: TokenModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Which prompts can be answered together."""
    lengths = [len(prompt) for prompt in prompts]
    together = ways(model).together
    if together == "all" or (len({*lengths}) == 1 and together == "of one length"):
        return [list(range(len(prompts)))]
    if is_sharded(model):
        raise ModelError(
            f"{type(model.lm).__name__} gives other answers to prompts in a batch, and over several processes they are in "
            "one; run it on one process"
        )
    if together == "none":
        return [[b] for b in range(len(prompts))]
    return [[b for b, length in enumerate(lengths) if length == wanted] for wanted in sorted({*lengths})]


@torch.no_grad()
def _packed(
    model: TokenModel,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    new_tokens: int,
    choose: Callable[[Float[Tensor, "S V"], Sequence[int]], list[int]],
) -> list[list[int]]:
    """Rows that are the same so far, as answers to one prompt often are, are one sequence of the cache."""
    cache = KeyValueCache()
    unique = {tuple(prompt): i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    tree = share([*unique], cache)
    states = model.decoder.run_packed(tree).last_hidden_state[0, [int(places[-1]) for places in tree.places]]
    at = torch.tensor([len(prompt) for prompt in unique])
    generated: list[list[int]] = [[] for _ in prompts]
    running = [(row, unique[tuple(prompt)]) for row, prompt in zip(generated, prompts, strict=True)]  # and its sequence
    for left in reversed(range(new_tokens)):
        tokens = choose(model.head(states), [i for _, i in running])
        for (row, _), token in zip(running, tokens, strict=True):
            row.append(token)
        running = [(row, i) for row, i in running if row[-1] not in ends]
        if not running or not left:
            break
        fed = {pair: k for k, pair in enumerate(dict.fromkeys((i, row[-1]) for row, i in running))}
        parents, last = [i for i, _ in fed], torch.tensor([token for _, token in fed])
        if len(set(parents)) < len(parents) or len(parents) <= COMPACT_BELOW * len(at):
            cache.keep(parents)
            at, new = at[parents], last
            running = [(row, fed[i, row[-1]]) for row, i in running]
        else:  # none has split, and few have ended
            new = torch.zeros_like(at).index_put((torch.tensor(parents),), last)
        states = model.decoder.run_next(new, CachedRows(cache=cache, at=at)).last_hidden_state[0]
        at = at + 1
    return generated


@torch.no_grad()
def _padded(
    model: TokenModel, prompts: Sequence[Sequence[int]], ends: frozenset[int], new_tokens: int, **how: Any
) -> list[list[int]]:
    out = _generate(
        model,
        prompts,
        use_cache=ways(model).caches,
        max_new_tokens=new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        **how,
    )
    generated = out.sequences[:, max(map(len, prompts)) :].tolist()
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row)) + 1] for row in generated]


def _generate(model: TokenModel, prompts: Sequence[Sequence[int]], *, pad_token_id: int, **settings: Any) -> Any:
    """What transformers' `generate` makes of prompts that are padded on the left."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad_token_id)
    mask = torch.zeros_like(ids)
    for b, prompt in enumerate(prompts):
        ids[b, length - len(prompt) :] = torch.tensor(prompt)
        mask[b, length - len(prompt) :] = 1
    chosen = {"do_sample": False} | settings
    config = GenerationConfig(pad_token_id=pad_token_id, return_dict_in_generate=True, **chosen)
    saved, model.lm.generation_config = model.lm.generation_config, config  # its own would fill in penalties
    try:
        return model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
    finally:
        model.lm.generation_config = saved


Together = Literal["all", "of one length", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ways:
    """In which ways a model's `generate` gives the tokens that its forward alone gives."""

    together: Together  # which prompts; all are padded on the left
    caches: bool  # with what it keeps of the tokens before


NOTHING = Example(id="", prompt=(), answer="")
_ways: WeakKeyDictionary[TokenModel, Ways] = WeakKeyDictionary()


@torch.no_grad()
def ways(model: TokenModel) -> Ways:
    """Tried once for each model, on a few short texts."""
    if model not in _ways:
        _ways[model] = _try_ways(model)
    return _ways[model]


def _try_ways(model: TokenModel) -> Ways:
    ids = (torch.arange(1, 26) * model.vocabulary // 26).tolist()
    batches: dict[Together, list[list[int]]] = {"all": [ids[:12], ids, ids[3:10]], "of one length": [ids[:12], ids[5:17]]}
    if getattr(model.lm, "_is_stateful", False):  # padding would go through the state
        del batches["all"]
    for together, texts in batches.items():
        if _same(model, texts, use_cache=True):
            return Ways(together=together, caches=True)
    return Ways(together="none", caches=all(_same(model, [text], use_cache=True) for text in (ids, ids[3:10])))


def _same(model: TokenModel, texts: Sequence[Sequence[int]], *, use_cache: bool) -> bool:
    """Are the logits of three generated tokens those of the forward over the text so far?"""
    try:
        out = _generate(model, texts, pad_token_id=0, max_new_tokens=3, use_cache=use_cache, output_logits=True)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        NotImplementedError,
    ):  # a family has its reasons
        return False
    seen = torch.stack(out.logits, 1).float()
    rough = model.dtype != torch.float32 or torch.is_autocast_enabled(model.device.type)
    for b, text in enumerate(texts):
        ids = (*text, *out.sequences[b, max(map(len, texts)) :].tolist())
        row = Encoded(example=NOTHING, ids=ids, start=len(text), offsets=((0, 0),) * (len(ids) - len(text)))
        truth = model(collate([row]).to(model.device), logits=True).logits.float()
        if not float((seen[b] - truth).norm() / truth.norm()) < (1e-1 if rough else 1e-3):
            return False
    return True
