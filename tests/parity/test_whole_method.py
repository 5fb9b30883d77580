"""ATWU and gradient difference written out naively, all logits, labels of −100 and all, against the loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from deleatur.data.batches import Schedule, step_windows
from deleatur.importance import Learned
from deleatur.importance.atwu import LearnedImportance
from deleatur.losses import GradientDifference
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import TrainingContext
from deleatur.settings import Train
from deleatur.training.loop import Method, fit
from deleatur.types import Encoded, Reference

BETA, EVERY, SCORER_RATE = 3.0, 2, 0.5
TRAIN = Train(epochs=2, batch=3, accumulate=2, lr=2e-5, warmup=0.2, alpha=0.8, gamma=1.7, clip=0.5)
DEALT = Schedule(epochs=TRAIN.epochs, batch=TRAIN.batch, accumulate=TRAIN.accumulate)
LEARNED = {
    objective: Learned(objective=objective, every=EVERY, lr=SCORER_RATE, budget=0.3)
    for objective in ("matched", "complement")
}


def forward(lm, rows: list[Encoded]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """NLL and own states of the scored tokens of each row: pad, mask, −100, shift."""
    length = max(len(r.ids) for r in rows)
    ids = torch.tensor([[*r.ids, *[1] * (length - len(r.ids))] for r in rows])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (length - len(r.ids)) for r in rows])
    labels = torch.tensor([[-100] * r.start + [*r.ids[r.start :]] + [-100] * (length - len(r.ids)) for r in rows])
    out = lm(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    nll = cross_entropy(out.logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    kept = labels[:, 1:] != -100
    return (
        [n[k] for n, k in zip(nll, kept, strict=True)],
        [h[k] for h, k in zip(out.hidden_states[-1][:, 1:], kept, strict=True)],
    )


def naive(lm, forget: list[Encoded], retain: list[Encoded], settings: Learned) -> tuple[torch.Tensor, torch.Tensor]:
    """The method of method.md in one function; returns the scorer."""
    w, b = torch.zeros(32, requires_grad=True), torch.zeros(1, requires_grad=True)
    steps = len(list(step_windows(forget, retain, DEALT)))
    warm = round(TRAIN.warmup * steps)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=TRAIN.lr, weight_decay=TRAIN.weight_decay)
    scorer = torch.optim.SGD([w, b], lr=SCORER_RATE, momentum=settings.momentum, weight_decay=settings.weight_decay)
    lm.train()
    for step, window in enumerate(step_windows(forget, retain, DEALT)):
        rows = [row for batch in window for row in batch.rows[: batch.forget]]
        partners = [row for batch in window for row in batch.rows[batch.forget :]]
        nll, states = forward(lm, rows)
        g = [torch.sigmoid(h.detach() @ w + b).detach() for h in states]
        pooled, weight = torch.cat(nll), torch.cat(g)
        fade = (torch.exp(-weight * pooled) ** BETA).detach()
        loss = TRAIN.alpha * torch.cat(forward(lm, partners)[0]).mean() - TRAIN.gamma * (weight * pooled * fade).mean()
        rise = (step + 1) / (warm + 1) if step < warm else (steps - step) / (steps - warm)
        optimizer.param_groups[0]["lr"] = TRAIN.lr * rise
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), TRAIN.clip)
        optimizer.step()
        if (step + 1) % EVERY == 0:
            turns, done = steps // EVERY, step // EVERY
            nll, states = [n.detach() for n in nll], [h.detach() for h in states]
            g = [torch.sigmoid(h @ w + b) for h in states]
            pooled, weight = torch.cat(nll), torch.cat(g)
            fade = (torch.exp(-weight * pooled) ** BETA).detach()
            matched = settings.objective == "matched"
            data = -(weight * pooled * fade).mean() if matched else ((1 - weight) * pooled).mean()
            entropy = -(weight * weight.log() + (1 - weight) * (1 - weight).log()).mean()
            share = torch.stack([((x > 0.5).float() - x.detach() + x).mean() for x in g])
            scorer.param_groups[0]["lr"] = SCORER_RATE * (1 - done / turns)
            scorer.zero_grad()
            population = settings.population * ((share - settings.budget) ** 2).mean()
            (data + settings.entropy * entropy + population + settings.l2 * (w @ w + b @ b)).backward()
            torch.nn.utils.clip_grad_norm_([w, b], settings.clip)
            scorer.step()
    return w.detach(), b.detach()


@pytest.mark.parametrize("objective", LEARNED)
def test_the_alternation_is_the_one_written_out(objective, make_llama, forget_rows, retain_rows):
    """Eight steps and four turns: the same model to 1e-6 (a twentieth of one step), the same scorer to 1e-4."""
    ours, theirs = make_llama(), make_llama()
    forget, settings = forget_rows[:22], LEARNED[objective]
    steps, loss = len(list(step_windows(forget, retain_rows, DEALT))), GradientDifference(saturation=BETA)
    importance = LearnedImportance(
        settings, TrainingContext(loss=loss, reference=Reference(), train=TRAIN, width=32, steps=steps)
    )
    fit(
        TokenModel(ours).prepare(),
        step_windows(forget, retain_rows, DEALT),
        Method(loss=loss, importance=importance, settings=TRAIN),
        steps=steps,
    )
    w, b = naive(theirs, forget, retain_rows, settings)
    assert steps == 8
    assert w.norm() > 0.05
    torch.testing.assert_close(importance.scorer.linear.weight[0].detach(), w, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(importance.scorer.linear.bias.detach(), b, rtol=1e-4, atol=1e-4)
    moved = 0.0
    for (name, p), q, start in zip(ours.named_parameters(), theirs.parameters(), make_llama().parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        moved = max(moved, float((p - start).abs().max()))
    assert moved > 2e-5
