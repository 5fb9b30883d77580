"""Alternating token-weighted unlearning (Yüce, Nikolaou, Flammarion, arXiv 2606.06320): the learned importance.

Model's turn, importance held fixed (the loop in `training/loop.py`, the loss in `losses/`):
    θ ← argmin  α · mean NLL(retain) + γ · forget loss(g)
Scorer's turn, model held fixed (here, every few steps, on numbers that the model's turn has already made):
    w, b ← argmin  data(g) + λ_entropy · H(g) + λ_population · (share selected − budget)² + λ_l2 · (‖w‖² + b²)
Nothing says which tokens matter. Retain rows hold shared tokens down while the model is pushed off forget rows, so what is
forget-specific is what drifts, and the budget makes the scorer choose.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler

from deleatur.importance.learned import Learned
from deleatur.losses.reductions import lengths, per_sequence
from deleatur.protocols import ForgetLoss, TrainingContext
from deleatur.requirements import Requirements
from deleatur.types import Reference, TokenOutputs


class Scorer(nn.Module):
    """score = w·h + b of a held-fixed hidden state, in fp32; importance = sigmoid(score), ½ everywhere at the start.

    With a `depth` above 1 there are so many layers before, each of at most 128 wide with a GELU after it.
    """

    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.depth = depth
        sizes = [width, *([min(width, 128)] * (depth - 1))]
        layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.GELU())]
        self.hidden, self.linear = nn.Sequential(*layers), nn.Linear(sizes[-1], 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """The score of each hidden state."""
        return self.linear(self.hidden(hidden.detach().float())).squeeze(-1)


def scorer_loss(
    g: Float[Tensor, " N"],
    tokens: TokenOutputs,
    settings: Learned,
    loss: ForgetLoss,
    reference: Reference,
    gamma: float = 1.0,
) -> Float[Tensor, 2]:
    """What the scorer minimises, summed over tokens and over sequences; the caller divides by their global counts."""
    nll = tokens.nll.detach()
    matched = settings.objective == "matched"
    data = gamma * (loss(tokens.detach(), g, reference) if matched else ((1 - g) * nll).sum())
    p = g.clamp(1e-6, 1 - 1e-6)
    entropy = -(p * p.log() + (1 - p) * (1 - p).log()).sum()
    selected = (g > 0.5).to(g) + g - g.detach()  # straight through: hard forwards, the gradient of g backwards
    share = per_sequence(selected, tokens) / lengths(tokens)
    population = (share - settings.budget).square().sum()
    by_token, by_sequence = settings.entropy * entropy, settings.population * population
    if matched and loss.unit == "sequence":
        return torch.stack([by_token, by_sequence + data])
    return torch.stack([by_token + data, by_sequence])


class LearnedImportance:
    """The scorer and its turn. Its rate falls over its updates: in so many steps with the model, after so many alone."""

    def __init__(self, settings: Learned, training: TrainingContext) -> None:
        self.settings, self.training = settings, training
        self.gamma = training.train.gamma if settings.joint else 1.0
        self.scorer = Scorer(training.width, settings.depth)
        self.optimizer, self.schedule = _optimizer(settings, training, self.scorer)

    @property
    def requires(self) -> Requirements:
        """What the scorer and its loss read, as the settings declare it."""
        return self.settings.requires

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        """g, held fixed during the model's turn."""
        return self.scorer(tokens.hidden).sigmoid().detach()

    def state_dict(self) -> dict[str, Any]:
        """All that the next turn depends on besides its tokens."""
        parts = {"scorer": self.scorer, "optimizer": self.optimizer, "schedule": self.schedule}
        return {name: part.state_dict() for name, part in parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for part, name in ((self.scorer, "scorer"), (self.optimizer, "optimizer"), (self.schedule, "schedule")):
            part.load_state_dict(state[name])

    def updates_after(self, step: int) -> bool:
        """Is there an update after this step (counted from 1)?"""
        return step % self.settings.every == 0 and not self.settings.frozen

    def update(self, forget: TokenOutputs, retain: TokenOutputs) -> dict[str, float]:
        """One update from the step's tokens, which carry no graph: nothing reaches the model."""
        g = self.scorer(forget.hidden).sigmoid()
        local = torch.tensor([len(g), len(forget.rows), len(retain.nll)], dtype=g.dtype, device=g.device)
        total = self.training.total
        counts = total(local).clamp(min=1)
        how = self.training.loss, self.training.reference, self.gamma
        parts = scorer_loss(g, forget, self.settings, *how) / counts[:2]
        size = sum(p.square().sum() for p in self.scorer.parameters())
        loss = parts.sum() + self.settings.l2 * size * local[0] / counts[0]
        if self.settings.negatives:
            loss = loss + self.settings.negatives * self.scorer(retain.hidden).sigmoid().sum() / counts[2]
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.scorer.parameters():
            if p.grad is not None:
                p.grad = total(p.grad)
        norm = nn.utils.clip_grad_norm_(self.scorer.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        seen = total(torch.stack([loss.detach(), g.detach().sum() / counts[0]]))
        return {"scorer_loss": seen[0].item(), "scorer_grad_norm": norm.item(), "importance": seen[1].item()}


def _optimizer(settings: Learned, training: TrainingContext, scorer: Scorer) -> tuple[Optimizer, LRScheduler]:
    """The settings' SGD; or AdamW at the model's own rate, so that a turn in the same step as the model's is a step down one
    common objective."""
    if settings.joint:
        adamw = AdamW(scorer.parameters(), lr=training.train.lr, weight_decay=training.train.weight_decay)
        return adamw, LambdaLR(adamw, training.rate)
    updates = training.pretraining_steps + (0 if settings.frozen else training.steps // settings.every)
    sgd = SGD(scorer.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return sgd, LinearLR(sgd, 1.0, 0.0, total_iters=max(updates, 1))
