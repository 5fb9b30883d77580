"""DPO against TRL's own trainer: the same pairs, the same two models, its loss and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from deleatur.data.batches import collate
from deleatur.data.world import World
from deleatur.losses import DPO
from deleatur.modeling.reference import make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

trl = pytest.importorskip("trl", minversion="1.16")

BETA = 0.21


@pytest.fixture
def trainer(make_llama: Callable[..., LlamaForCausalLM], make_tokenizer, world: World, tmp_path: Path):
    """TRL's, with the answers to forget rejected for another person's; policy and start are two random Llamas."""
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    pairs = zip(world.forget[:5], world.retain, strict=False)
    rows = [{"prompt": f.question, "chosen": f" {r.answer}", "rejected": f" {f.answer}"} for f, r in pairs]
    args = trl.DPOConfig(str(tmp_path), beta=BETA, use_cpu=True, bf16=False, report_to=[])
    policy, start = make_llama(), make_llama(seed=1)
    with torch.no_grad():  # near the start, as in training: elsewhere the sigmoid is flat
        for p, q in zip(policy.parameters(), start.parameters(), strict=True):
            p.copy_(q + (p - q) / 50)
    return trl.DPOTrainer(policy, start, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


def encoded(prompt: list[int], answer: list[int], name: str) -> Encoded:
    example = Example(id=name, prompt=(("user", "?"),), answer="x" * len(answer))
    return Encoded(
        example=example, ids=(*prompt, *answer), start=len(prompt), offsets=tuple((k, k + 1) for k in range(len(answer)))
    )


def test_dpo_is_trls_times_two_over_beta(trainer):
    """TRL gives the mean of −log σ; ours is a sum that carries NPO's 2/β. The gradients of all weights follow suit."""
    pairs = list(trainer.train_dataset)
    policy, start = trainer.model, trainer.ref_model
    theirs = trainer.compute_loss(policy, trainer.data_collator(pairs))
    theirs.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters()}
    policy.zero_grad()

    forget = [encoded(pair["prompt_ids"], pair["rejected_ids"], f"f{k}") for k, pair in enumerate(pairs)]
    instead = [encoded(pair["prompt_ids"], pair["chosen_ids"], f"w{k}") for k, pair in enumerate(pairs)]
    reference = make_reference(StartPass(TokenModel(start).prepare(), batch=3), [*forget, *instead], DPO.requires)
    tokens, preferred = TokenModel(policy).prepare()(collate(forget, preferred=instead)).split(len(forget))
    ours = DPO(beta=BETA)(replace(tokens, preferred=preferred), torch.ones_like(tokens.nll).detach(), reference)
    ours = ours * BETA / 2 / len(pairs)
    ours.backward()
    assert abs(theirs.item() - 0.6931) > 0.01  # not where every DPO agrees
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-5 * float(gradients[name].abs().max()))
