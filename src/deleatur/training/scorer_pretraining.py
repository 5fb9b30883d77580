"""The scorer alone, before it takes turns with the model: fitted to another importance, or trained by updates of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import LBFGS

from deleatur.data.batches import in_batches
from deleatur.importance.atwu import LearnedImportance
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Batch, Encoded, Importance, TokenOutputs

WARM_L2 = 1e-3  # per squared unit of the scorer's weights: enough to keep them finite


def fit_scorer(
    importance: LearnedImportance, model: TokenModel, target: Importance, rows: Sequence[Encoded], batch: int
) -> None:
    """Fit the scorer to another importance of the rows by logistic regression; the model is not touched."""
    with torch.no_grad():
        outputs = [model(part.to(model.device), state=importance.settings.state) for _, part in in_batches(rows, batch)]
    hidden, wanted = torch.cat([s.hidden for s in outputs]).float(), torch.cat([target(s) for s in outputs])
    optimizer = LBFGS(importance.scorer.parameters(), max_iter=100, tolerance_change=0, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        size = sum(p.square().sum() for p in importance.scorer.parameters())
        loss = binary_cross_entropy_with_logits(importance.scorer(hidden), wanted) + WARM_L2 * size
        loss.backward()
        return loss

    optimizer.step(closure)


@torch.no_grad()
def pretrain_scorer(importance: LearnedImportance, model: TokenModel, batches: Iterable[Sequence[Batch]]) -> None:
    """Turns of the scorer alone; the model stays as it is."""
    model.eval()
    for window in batches:
        forget, retain = [], []
        for batch in window:
            tokens, rest = model(batch.to(model.device), state=importance.settings.state).split(batch.forget)
            forget.append(tokens)
            retain.append(rest.split(batch.preferred)[1])
        with torch.enable_grad():
            importance.turn(TokenOutputs.join(forget), TokenOutputs.join(retain))
