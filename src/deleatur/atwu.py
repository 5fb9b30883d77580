"""Alternating token-weighted unlearning (Yüce, Nikolaou, Flammarion, arXiv 2606.06320): the learned importance.

Model's turn, importance held fixed (the loop in `train.py`, the loss in `losses/`):
    θ ← argmin  α · mean NLL(retain) + γ · forget loss(g)
Scorer's turn, model held fixed (here, every few steps, on numbers that the model's turn has already made):
    w, b ← argmin  data(g) + λ_entropy · H(g) + λ_population · (share selected − budget)² + λ_l2 · (‖w‖² + b²)
Nothing says which tokens matter. Retain rows hold shared tokens down while the model is pushed off forget rows, so what is
forget-specific is what drifts, and the budget makes the scorer choose.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deleatur.importance.learned import Learned
from deleatur.objective import lengths, per_sequence
from deleatur.types import ForgetLoss, Reference, TokenOutputs


class Scorer(nn.Module):
    """score = w·h + b of a held-fixed hidden state, in fp32; importance = sigmoid(score), ½ everywhere at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        return self.linear(hidden.detach().float()).squeeze(-1)


def scorer_loss(
    g: Float[Tensor, " N"], tokens: TokenOutputs, settings: Learned, loss: ForgetLoss, reference: Reference
) -> Float[Tensor, 2]:
    """What the scorer minimises, summed over tokens and over sequences; the caller divides by their global counts."""
    nll = tokens.nll.detach()
    matched = settings.objective == "matched"
    data = loss(tokens.detach(), g, reference) if matched else ((1 - g) * nll).sum()
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
    """The scorer and its turn. `turns` is how many there will be; `total` sums a tensor over processes."""

    def __init__(
        self,
        settings: Learned,
        *,
        width: int,
        turns: int,
        loss: ForgetLoss,
        reference: Reference,
        total: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.settings, self.loss, self.reference, self.total = settings, loss, reference, total
        self.scorer = Scorer(width)
        self.optimizer = torch.optim.SGD(
            self.scorer.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=max(turns, 1))

    def __call__(self, tokens: TokenOutputs) -> Float[Tensor, " N"]:
        """g, held fixed during the model's turn."""
        return self.scorer(tokens.hidden).sigmoid().detach()

    def due(self, step: int) -> bool:
        return step % self.settings.every == 0

    def turn(self, tokens: TokenOutputs) -> dict[str, float]:
        """One update from the step's forget tokens, which carry no graph: nothing reaches the model."""
        g = self.scorer(tokens.hidden).sigmoid()
        local = torch.tensor([len(g), len(tokens.keys)], dtype=g.dtype, device=g.device)
        counts = self.total(local)
        parts = scorer_loss(g, tokens, self.settings, self.loss, self.reference) / counts
        size = sum(p.square().sum() for p in self.scorer.parameters())
        loss = parts.sum() + self.settings.l2 * size * local[0] / counts[0]
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.scorer.parameters():
            p.grad = self.total(p.grad)  # pyright: ignore[reportArgumentType]
        norm = nn.utils.clip_grad_norm_(self.scorer.parameters(), self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        seen = self.total(torch.stack([loss.detach(), g.detach().sum() / counts[0]]))
        return {"scorer_loss": seen[0].item(), "scorer_grad_norm": norm.item(), "importance": seen[1].item()}
