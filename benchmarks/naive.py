"""One unlearning step as peers write it: the plain code that deleatur's step is measured against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedModel

from deleatur.types import Encoded


class NaiveStep:
    """Two forwards with padding and a mask, logits at all positions, labels of −100, AdamW on the model's own weights.

    Gradient difference, or with a `reference` model NPO: that model runs over the forget rows in every step.
    """

    def __init__(self, lm: PreTrainedModel, *, lr: float, reference: PreTrainedModel | None = None) -> None:
        self.lm, self.reference = lm.train(), reference
        self.optimizer = torch.optim.AdamW([p for p in lm.parameters() if p.requires_grad], lr=lr)

    def __call__(self, forget: list[Encoded], retain: list[Encoded]) -> float:
        """Away from the forget rows, towards the retain rows; returns the loss."""
        loss = self._nll(self.lm, retain, "mean") + self._away(forget)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.lm.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def _away(self, forget: list[Encoded], beta: float = 0.1) -> Tensor:
        if self.reference is None:
            return -self._nll(self.lm, forget, "mean")
        with torch.no_grad():
            start = self._nll(self.reference, forget, "none").sum(1)
        return -2 / beta * logsigmoid(beta * (self._nll(self.lm, forget, "none").sum(1) - start)).mean()

    def _nll(self, lm: PreTrainedModel, rows: list[Encoded], reduction: str) -> Tensor:
        longest = max(len(row.ids) for row in rows)
        ids, labels, mask = (torch.full((len(rows), longest), fill) for fill in (0, -100, 0))
        for b, row in enumerate(rows):
            n = len(row.ids)
            ids[b, :n] = torch.tensor(row.ids)
            labels[b, row.start : n] = ids[b, row.start : n]
            mask[b, :n] = 1
        logits = lm(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        return cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction=reduction)
