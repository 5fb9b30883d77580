"""The model's optimizer: master weights, AdamW, schedule."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from deleatur.distributed import deepspeed
from deleatur.distributed.processes import full_tensor, gather, mesh_of, part, put
from deleatur.errors import ConfigError, Diverged
from deleatur.settings import Train
from deleatur.training.memory import MicroBatches

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's


class MasterWeights:
    """fp32 copies of trained bf16 weights, so that small updates are not rounded away; fp32 weights are their own."""

    def __init__(self, trained: Iterable[nn.Parameter]) -> None:
        self.trained = list(trained)
        is_master = [
            p.dtype == torch.float32 or deepspeed.is_partitioned(p) for p in self.trained
        ]  # DeepSpeed keeps masters of its own
        copied = (nn.Parameter(p.detach().to(torch.float32)) for p, o in zip(self.trained, is_master, strict=True) if not o)
        self.master = [p if o else next(copied) for p, o in zip(self.trained, is_master, strict=True)]

    def take_gradients(self) -> None:
        """Add the gradients of one backward pass to the masters', in fp32."""
        for p, master in zip(self.trained, self.master, strict=True):
            if master is not p and p.grad is not None:
                grad = p.grad.to(torch.float32)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                p.grad = None

    def drop_gradients(self) -> None:
        """Drop the gradients of this step."""
        for p in (*self.trained, *self.master):
            p.grad = None

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Round the masters into the model."""
        for p, master in zip(self.trained, self.master, strict=True):
            if master is not p:
                p.copy_(master)


class ModelOptimizer:
    """Master weights, AdamW, the rate's schedule, and the weight of the retain term. `run` is the model's forward pass."""

    def __init__(self, model: nn.Module, settings: Train, steps: int) -> None:
        self.settings, self.alpha, self.run = settings, settings.alpha, model
        self.pieces = MicroBatches()
        self.weights = MasterWeights(p for p in model.parameters() if p.requires_grad)
        self.optimizer = AdamW(self.weights.master, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.steps, self.cooling = steps, (0, 0)  # the step after which the rate falls to 0 early, and over how many
        rate = warmup_then_linear_decay(round(settings.warmup * steps), steps)
        self.schedule = LambdaLR(self.optimizer, lambda done: cooled(rate, done, *self.cooling))

    @property
    def end(self) -> int:
        """The number of the last step: the planned one, or the end of the cool-down."""
        return sum(self.cooling) or self.steps

    def cool_down(self, step: int, length: int) -> None:
        """End training `length` steps after this one, with the rate falling straight to 0; only the first call counts."""
        if not sum(self.cooling):
            self.cooling = step, min(length, self.steps - step)

    @property
    def lr(self) -> float:
        """The rate of the step to come."""
        return float(self.schedule.get_last_lr()[0])

    def backward(self, loss: Tensor) -> None:
        """Add a batch's gradients to those of the step."""
        loss.backward()
        self.weights.take_gradients()

    def step(self, number: int, loss: float, retain_nll: float) -> float:
        """One step with the accumulated gradients; returns their norm. Raises Diverged before harm is done."""
        norm = self._move(loss)
        if not math.isfinite(norm) or not math.isfinite(loss):
            raise Diverged(f"step {number}: the loss is {loss:g}, its gradient {norm:g}; lower train.lr or train.gamma")
        self.schedule.step()
        if self.settings.bound is not None:
            self.alpha = max(0.0, self.alpha + self.settings.dual_step * (retain_nll - self.settings.bound))
        return norm

    def _move(self, loss: float) -> float:
        """The optimizer's step, and the gradient's norm before it was clipped; no step where one is not finite."""
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.weights.master, self.settings.clip)))
        if math.isfinite(norm) and math.isfinite(loss):
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.weights.copy_to_model()
        return norm

    def release(self) -> None:
        """Free moments and master weights: torch's scheduler puts the optimizer into a cycle, which would keep them."""
        self.optimizer.state.clear()
        self.optimizer.param_groups.clear()
        self.weights.master.clear()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on besides its batches. Raises Diverged where a weight is not finite."""
        if not all(gather(all(bool(part(p).isfinite().all()) for p in self.weights.master))):
            raise Diverged("a weight is not finite after the last step; lower train.lr or train.gamma")
        rest = {"schedule": self.schedule.state_dict(), "alpha": self.alpha, "rng": torch.get_rng_state()}
        rest["cooling"] = list(self.cooling)
        return self._kept() | rest

    def _kept(self) -> dict[str, Any]:
        return {"weights": [p.detach() for p in self.weights.master], "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of the same model and settings. Raises ConfigError where another engine had kept it."""
        if self._kept().keys() - state.keys():
            engine = "ZeRO-3" if "moments" in state else "FSDP2"
            raise ConfigError(f"the checkpoint was saved under {engine}; resume under {engine}")
        self._put_back(state)
        self.schedule.load_state_dict(state["schedule"])
        self.alpha, self.cooling = state["alpha"], tuple(state["cooling"])
        torch.set_rng_state(state["rng"])

    def _put_back(self, state: dict[str, Any]) -> None:
        for p, kept in zip(self.weights.master, state["weights"], strict=True):
            p.copy_(kept)
        self.weights.copy_to_model()
        self.optimizer.load_state_dict(state["optimizer"])


class DeepSpeedOptimizer(ModelOptimizer):
    """The same where DeepSpeed holds shares of master weights, gradients and moments, and clips and steps itself."""

    def __init__(self, model: nn.Module, settings: Train, steps: int) -> None:
        super().__init__(model, settings, steps)
        self.run = deepspeed.train(model, self.optimizer, settings.clip)
        deepspeed.make_moments(self.run, self.optimizer, MOMENTS)

    def backward(self, loss: Tensor) -> None:
        """Backward pass through DeepSpeed's engine."""
        self.run.backward(loss)

    def _move(self, loss: float) -> float:
        if not math.isfinite(loss):
            return math.nan
        self.run.step()  # does nothing where the norm is not finite
        return float(self.run.get_global_grad_norm())

    def release(self) -> None:
        """Free what DeepSpeed's engine holds as well."""
        super().release()
        gc.collect()

    def _kept(self) -> dict[str, Any]:
        mesh = mesh_of(self.weights.trained[0])
        kept = {key: [deepspeed.local_shard(p, key, mesh) for p in self.weights.trained] for key in (None, *MOMENTS)}
        return {"weights": kept.pop(None), "moments": kept}

    def _put_back(self, state: dict[str, Any]) -> None:
        for key, values in {None: state["weights"], **state["moments"]}.items():
            for p, kept in zip(self.weights.trained, values, strict=True):
                deepspeed.restore_weights(p, key, kept)
        for p, kept in zip(self.weights.trained, state["weights"], strict=True):
            put(p, kept)
        for moments in self.optimizer.state.values():
            moments["step"].fill_(state["schedule"]["last_epoch"])
        self.optimizer.param_groups[0]["lr"] = state["schedule"]["_last_lr"][0]


def make_optimizer(model: nn.Module, settings: Train, steps: int) -> ModelOptimizer:
    """The optimizer for the model: DeepSpeed's where its weights are partitioned."""
    return (DeepSpeedOptimizer if any(map(deepspeed.is_partitioned, model.parameters())) else ModelOptimizer)(
        model, settings, steps
    )


def cooled(rate: Callable[[int], float], done: int, since: int, length: int) -> float:
    """The share of the peak rate: as planned, or from step `since` on straight down to 0 over `length` steps."""
    return rate(since) * max(0.0, (since + length - done) / length) if length else rate(done)


def warmup_then_linear_decay(warmup: int, steps: int) -> Callable[[int], float]:
    """The share of the peak rate after so many steps: up over the warm-up, then straight down to 0."""

    def factor(done: int) -> float:
        """The share after `done` steps."""
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return max(0.0, (steps - done) / max(steps - warmup, 1))

    return factor
