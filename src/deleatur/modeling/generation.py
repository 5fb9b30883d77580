"""Greedy and sampled answers, many at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from deleatur.distributed.processes import is_sharded
from deleatur.modeling.packed_attention import Growing, Grown, share
from deleatur.modeling.token_model import TokenModel

STILL = 7 / 8  # share of the rows in a batch that still speak below which it is worth copying what those know


def greedy(
    model: TokenModel, prompts: Sequence[Sequence[int]], *, ends: Collection[int], new_tokens: int
) -> list[list[int]]:
    """The likeliest next token again and again, up to one of `ends` (which is given too) or `new_tokens`. Equals, for each

        while len(generated) < new_tokens and not (generated and generated[-1] in ends):
            generated.append(int(lm(torch.tensor([[*prompt, *generated]])).logits[0, -1].argmax()))

    Rows that have ended leave the batch. A model that cannot be packed answers by transformers' `generate`.
    """
    if not prompts:
        return []
    if model.packs and not is_sharded(model):
        return _packed(model, prompts, frozenset(ends), new_tokens, _likeliest)
    return _padded(model, prompts, frozenset(ends), new_tokens)


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
        return _packed(model, prompts, frozenset(ends), new_tokens, lambda logits: _drawn(logits, generator))
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return _padded(model, prompts, frozenset(ends), new_tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)


def _likeliest(logits: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    return logits.argmax(-1)


def _drawn(logits: Float[Tensor, "B V"], generator: torch.Generator) -> Int[Tensor, " B"]:
    return torch.multinomial(logits.float().cpu().softmax(-1), 1, generator=generator)[:, 0].to(logits.device)


@torch.no_grad()
def _packed(
    model: TokenModel,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    new_tokens: int,
    choose: Callable[[Float[Tensor, "B V"]], Int[Tensor, " B"]],
) -> list[list[int]]:
    grown = Grown()
    tree = share(prompts, grown)
    states = model.run_packed(tree).last_hidden_state[0, [int(places[-1]) for places in tree.places]]
    at = torch.tensor([len(prompt) for prompt in prompts])
    generated: list[list[int]] = [[] for _ in prompts]
    running = generated
    for left in reversed(range(new_tokens)):
        tokens = choose(model.head(states))
        for row, token in zip(running, tokens.tolist(), strict=True):
            if not row or row[-1] not in ends:
                row.append(token)
        going = [b for b, row in enumerate(running) if row[-1] not in ends]
        if not going or not left:
            break
        if len(going) <= STILL * len(running):
            grown.keep(going)
            running, tokens, at = [running[b] for b in going], tokens[going], at[going]
        states = model.run_next(tokens, Growing(grown=grown, at=at)).last_hidden_state[0]
        at = at + 1
    return generated


@torch.no_grad()
def _padded(
    model: TokenModel,
    prompts: Sequence[Sequence[int]],
    ends: frozenset[int],
    new_tokens: int,
    do_sample: bool = False,
    **how: float,
) -> list[list[int]]:
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), min(ends))
    mask = torch.zeros_like(ids)
    for b, prompt in enumerate(prompts):
        ids[b, length - len(prompt) :] = torch.tensor(prompt)
        mask[b, length - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=do_sample,
        max_new_tokens=new_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        use_cache=True,
        **how,
    )
    own, model.lm.generation_config = model.lm.generation_config, config  # its own would fill in penalties
    try:
        out = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
    finally:
        model.lm.generation_config = own
    generated = out[:, length:].tolist()
    return [row[: next((i for i, token in enumerate(row) if token in ends), len(row)) + 1] for row in generated]
