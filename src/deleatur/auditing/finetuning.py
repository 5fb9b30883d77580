"""Short trainings inside an audit, and how the weights are restored afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from deleatur.data.batches import fine_tuning_batches
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.modeling.loading import add_adapters, merge_adapters
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora, Train
from deleatur.training.loop import Method, fit
from deleatur.types import Encoded


@contextlib.contextmanager
def restore_weights(model: TokenModel) -> Iterator[None]:
    """Restore the weights at the end, bit for bit. Holds a second copy of them."""
    held = {name: p.detach().clone() for name, p in model.lm.named_parameters()}
    try:
        yield
    finally:
        merge_and_unfreeze(model)
        with torch.no_grad():
            for name, p in model.lm.named_parameters():
                p.copy_(held[name])


def fine_tune(
    model: TokenModel, rows: Sequence[Encoded], settings: Train, *, steps: int, rank: int | None, seed: int
) -> None:
    """Train on the rows, adapters of `rank` or all weights, in place; adapters are merged. Raises Diverged."""
    torch.manual_seed(seed)
    if rank is not None:
        add_adapters(model.lm, Lora(rank=rank, alpha=2 * rank))
        model.prepare()
    epochs = -(-steps * settings.batch // max(len(rows), 1)) + 1
    fine_tune_steps(model, rows, steps=steps, settings=replace(settings, epochs=epochs, gamma=0.0), seed=seed)
    merge_and_unfreeze(model)


def merge_and_unfreeze(model: TokenModel) -> None:
    """Merge adapters, if there are any; all weights can be trained again. In place."""
    merge_adapters(model.lm)
    vars(model.lm).pop("peft_config", None)  # else peft takes the next adapters for further ones
    model.lm.requires_grad_(True)
    model.eval()


def fine_tune_steps(model: TokenModel, rows: Sequence[Encoded], *, steps: int, settings: Train, seed: int) -> None:
    """So many steps of plain fine-tuning on the rows, in random order; bf16 is that of the products, not of the weights."""
    method = Method(loss=GradientDifference(), importance=Uniform(), settings=settings)
    batches = fine_tuning_batches(rows, epochs=settings.epochs, batch=settings.batch, seed=seed)
    rounded = settings.precision == "bf16"
    with torch.autocast(model.device.type, torch.bfloat16, enabled=rounded, cache_enabled=False):
        fit(model, batches, method, steps=steps)
