"""Erase with `keep` against its definition in plain lines on transformers' own logits: packed or padded, tied head or own,
all weights or adapters (so that the head is frozen)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_families import make
from test_packing import batch, padded
from torch.nn.functional import kl_div, one_hot
from transformers import PreTrainedModel

from deleatur.losses import Erase
from deleatur.modeling.loading import add_adapters
from deleatur.modeling.reference import make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora
from deleatur.types import Batch

LEVEL, KEEP = 4.0, 0.7


def models(tied: bool, rank: int | None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A start model, and one that has moved away from it."""
    start = make("Llama", tie_word_embeddings=tied)
    torch.manual_seed(3)
    moved = copy.deepcopy(start)
    for p in moved.parameters():
        p.data += 0.02 * torch.randn_like(p)
    if tied:
        moved.tie_weights()
    if rank is not None:
        add_adapters(moved, Lora(rank=rank))
        for name, p in moved.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    return start, moved


def gradient(loss: torch.Tensor, lm: PreTrainedModel) -> torch.Tensor:
    lm.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in lm.parameters() if p.requires_grad])


def plain(start: PreTrainedModel, lm: PreTrainedModel, some: Batch, importance: torch.Tensor) -> torch.Tensor:
    """Σ g·[KL(t ‖ p) + (1 − a)·(l − level)² / level] + keep·(1 − g)·KL(p_start ‖ p), a row at a time; t is a = exp(−level)
    at the token and the start model's other predictions elsewhere."""
    total, place = torch.zeros(()), 0
    for row in some.rows:
        ids = torch.tensor([row.ids])
        target = ids[0, row.start :]
        p = lm(ids).logits[0, row.start - 1 : -1].log_softmax(-1)
        with torch.no_grad():
            reference = start(ids).logits[0, row.start - 1 : -1].softmax(-1)
        here = one_hot(target, reference.shape[-1])
        q, a = reference * (1 - here), math.exp(-LEVEL)
        t = a * here + (1 - a) * q / q.sum(-1, keepdim=True)
        nll = -p.gather(1, target[:, None])[:, 0]
        g = importance[place : (place := place + len(target))]
        erased = kl_div(p, t, reduction="none").sum(-1) + (1 - a) * (nll - LEVEL).square() / LEVEL
        total = total + (g * erased + KEEP * (1 - g) * kl_div(p, reference, reduction="none").sum(-1)).sum()
    return total


@pytest.mark.parametrize("rank", [None, 4], ids=["all weights", "adapters"])
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_value_and_gradient_are_those_of_the_plain_lines(packs, tied, rank):
    start, lm = models(tied, rank)
    some = batch("ugly")
    model = TokenModel(lm).prepare() if packs else padded(lm)
    assert model.packs is packs
    reference = make_reference(StartPass(TokenModel(start).prepare(), batch=3), some.rows, Erase().requires)
    tokens = model(some, teacher=reference.teacher)
    g = torch.linspace(0, 1, len(tokens.nll))
    ours = Erase(level=LEVEL)(tokens, g, reference) + KEEP * ((1 - g) * tokens.divergence.kept).sum()
    value, made = ours.detach(), gradient(ours, lm)
    truth = plain(start, lm, some, g)
    torch.testing.assert_close(value, truth.detach(), rtol=1e-5, atol=0)
    theirs = gradient(truth, lm)
    assert float((made - theirs).norm() / theirs.norm()) < 1e-5
