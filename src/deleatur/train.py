"""fit(): the one loop. It knows no method by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from deleatur.checkpoint import Checkpoints
from deleatur.errors import Diverged
from deleatur.forward import State, TokenModel
from deleatur.memory import Pieces, forget_peak_memory, peak_memory, ran_out
from deleatur.objective import RETAIN_TERMS
from deleatur.processes import is_sharded, sum_gradients, whole
from deleatur.settings import Train
from deleatur.types import Batch, ForgetLoss, Importance, Reference, TakesTurns, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one optimiser step did."""

    step: int
    loss: float
    forget_nll: float  # mean over scored tokens, nats
    retain_nll: float
    grad_norm: float
    lr: float
    importance: float  # mean over the step's forget tokens
    seconds: float
    cpu_seconds: float  # of all threads of this process: what to compare on a machine that others use too
    scorer_seconds: float
    memory: int  # most bytes held so far in this training, of the device's or else of the process's memory
    scorer: dict[str, float] | None = None


class MasterWeights:
    """fp32 copies of trained bf16 weights, so that small updates are not rounded away; fp32 weights are their own."""

    def __init__(self, trained: Iterable[nn.Parameter]) -> None:
        self.trained = list(trained)
        self.master = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().to(torch.float32)) for p in self.trained]

    def take_gradients(self) -> None:
        """Add the gradients of one backward pass to the masters', in fp32."""
        for p, master in zip(self.trained, self.master, strict=True):
            if master is not p and p.grad is not None:
                grad = p.grad.to(torch.float32)
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                p.grad = None

    def drop_gradients(self) -> None:
        """As if no backward pass of this step had been."""
        for p in (*self.trained, *self.master):
            p.grad = None

    @torch.no_grad()
    def hand_back(self) -> None:
        """Round the masters into the model."""
        for p, master in zip(self.trained, self.master, strict=True):
            if master is not p:
                p.copy_(master)


class Descent:
    """The model's half of a step: master weights, AdamW, the rate's schedule, and the weight of the retain term."""

    def __init__(self, model: nn.Module, settings: Train, steps: int) -> None:
        self.settings, self.alpha = settings, settings.alpha
        self.pieces = Pieces()
        self.weights = MasterWeights(p for p in model.parameters() if p.requires_grad)
        self.optimizer = AdamW(self.weights.master, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self.schedule = LambdaLR(self.optimizer, warm_up_then_fall(round(settings.warmup * steps), steps))

    @property
    def lr(self) -> float:
        """The rate of the step to come."""
        return float(self.schedule.get_last_lr()[0])

    def step(self, number: int, loss: float, retain_nll: float) -> float:
        """One step down the gradients that lie in the weights; returns their norm. Raises Diverged before harm is done."""
        norm = whole(nn.utils.clip_grad_norm_(self.weights.master, self.settings.clip))
        if not bool(torch.isfinite(norm)) or not math.isfinite(loss):
            raise Diverged(f"step {number}: the loss is {loss:g}, its gradient {norm:g}; lower train.lr or train.gamma")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.weights.hand_back()
        if self.settings.bound is not None:
            self.alpha = max(0.0, self.alpha + self.settings.dual_step * (retain_nll - self.settings.bound))
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on beside its batches. Raises Diverged rather than keep what is no number."""
        if not all(bool(whole(p.isfinite().all())) for p in self.weights.master):
            raise Diverged("a weight is not finite after the last step; lower train.lr or train.gamma")
        return {
            "weights": [p.detach() for p in self.weights.master],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "alpha": self.alpha,
            "rng": torch.get_rng_state(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state of the same model and settings."""
        for p, kept in zip(self.weights.master, state["weights"], strict=True):
            p.copy_(kept)
        self.weights.hand_back()
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.alpha = state["alpha"]
        torch.set_rng_state(state["rng"])


def needs(loss: ForgetLoss, importance: object, settings: Train) -> frozenset[str]:
    """All that a method reads beside the NLL."""
    return loss.needs | getattr(importance, "needs", frozenset()) | RETAIN_TERMS[settings.retain][1]


def fit(
    model: TokenModel,
    windows: Iterable[Sequence[Batch]],
    *,
    steps: int,
    loss: ForgetLoss,
    importance: Importance,
    settings: Train,
    reference: Reference,
    accelerator: Accelerator,
    state: State = "own",
    on_step: Callable[[Step], None] = lambda step: None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train `model` in place, one optimiser step a window. Raises Diverged before a step that is not finite.

    With `checkpoints` it goes on after the newest, to the same bits, and raises Interrupted after the step in which a signal
    came; `windows` starts with the first step's all the same. Every loss is a sum divided by the count over all batches and
    processes of the step, so how rows are dealt does not change it. With `settings.bound` the weight of the retain term
    rises while the retain NLL is above the bound and falls while it is below (primal-dual, 2506.05314).
    """
    descent = Descent(model, settings, steps)
    model.train()
    begun = _resume(checkpoints, descent, importance)
    forget_peak_memory()
    for number, window in islice(enumerate(windows, start=1), begun, None):
        began, cpu, lr, now = time.perf_counter(), time.process_time(), descent.lr, replace(settings, alpha=descent.alpha)
        done = _backward(model, window, loss, importance, now, reference, accelerator, state, descent)
        norm = descent.step(number, done.figures["loss"], done.figures["retain_nll"])
        turned, scorer = time.perf_counter(), None
        if isinstance(importance, TakesTurns) and importance.due(number):
            scorer = importance.turn(TokenOutputs.join(done.forget), TokenOutputs.join(done.retain))
        on_step(
            Step(
                step=number,
                **done.figures,
                grad_norm=norm,
                lr=lr,
                seconds=time.perf_counter() - began,
                cpu_seconds=time.process_time() - cpu,
                scorer_seconds=time.perf_counter() - turned + done.scorer_seconds,
                memory=peak_memory(),
                scorer=scorer,
            )
        )
        if checkpoints is not None and checkpoints.due(number, steps):
            checkpoints.save(number, {"model": descent.state_dict(), "importance": _state_of(importance)})
            checkpoints.stop_if_asked(number)
    model.eval()


def _resume(checkpoints: Checkpoints | None, descent: Descent, importance: Importance) -> int:
    """How many steps the newest checkpoint has done, with its state put back; 0 where there is none."""
    step = 0 if checkpoints is None else checkpoints.newest()
    if checkpoints is None or not step:
        return 0
    state = checkpoints.load(step, mesh=getattr(descent.weights.master[0], "device_mesh", None))
    descent.load_state_dict(state["model"])
    if hasattr(importance, "load_state_dict"):
        importance.load_state_dict(state["importance"])  # pyright: ignore[reportAttributeAccessIssue]
    return step


def _state_of(importance: Importance) -> dict[str, Any]:
    """What an importance has learned; nothing of one that does not learn."""
    return importance.state_dict() if hasattr(importance, "state_dict") else {}  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """What the backward passes of one step found; the gradients lie in the weights."""

    figures: dict[str, float]  # loss, forget_nll, retain_nll, importance
    scorer_seconds: float
    forget: list[TokenOutputs]  # held fixed
    retain: list[TokenOutputs]


def _backward(
    model: nn.Module,
    window: Sequence[Batch],
    loss: ForgetLoss,
    importance: Importance,
    settings: Train,
    reference: Reference,
    accelerator: Accelerator,
    state: State,
    descent: Descent,
) -> _Window:
    """Forward and backward of every batch of a step; means are over the whole step and all processes.

    Where the memory runs out, all of it again in smaller pieces.
    """
    device = accelerator.device
    counts = _total(_counts(window, loss).to(device), accelerator).clamp(min=1)  # told rows have no forget side
    scale = accelerator.num_processes if is_sharded(model) else 1  # FSDP takes the mean over processes
    while True:
        try:
            sums, made = _passes(model, descent, window, loss, importance, settings, reference, counts, state, scale)
            break
        except RuntimeError as e:
            if not ran_out(e):
                raise
            if is_sharded(model):
                e.add_note("Under FSDP2 no process can go back alone: halve --train.batch and double --train.accumulate")
                raise
        descent.weights.drop_gradients()
        descent.pieces.halve(window)
    if not is_sharded(model):
        sum_gradients(descent.weights.master)
    sums = _total(sums, accelerator) / torch.stack([counts[0].new_ones(()), counts[1], counts[2], counts[1]])
    names: tuple[str, ...] = ("loss", "forget_nll", "retain_nll", "importance")
    return replace(made, figures=dict(zip(names, sums.tolist(), strict=True)))


def _passes(
    model: nn.Module,
    descent: Descent,
    window: Sequence[Batch],
    loss: ForgetLoss,
    importance: Importance,
    settings: Train,
    reference: Reference,
    counts: Tensor,
    state: State,
    scale: int,
) -> tuple[Tensor, _Window]:
    """This process's part: the sums of loss, forget NLL, retain NLL and importance, and what the passes found."""
    device = counts.device
    sums, pushed, held, scoring = torch.zeros(4, device=device), [], [], 0.0
    reads = needs(loss, importance, settings)
    asks = {"state": state, "logits": "logits" in reads, "layer": getattr(loss, "layer", None) if "layer" in reads else None}
    for batch in descent.pieces.of(window):
        forget, rest = model(batch.to(device), **asks).split(batch.forget)
        preferred, retain = rest.split(batch.preferred)
        forget = replace(forget, preferred=preferred) if "preferred" in reads else forget
        asked = time.perf_counter()
        g = importance(forget)
        scoring += time.perf_counter() - asked
        kept = RETAIN_TERMS[settings.retain][0](retain, reference).sum()
        part = settings.gamma * loss(forget, g, reference) / counts[0] + settings.alpha * kept / counts[2]
        (part * scale).backward()
        descent.weights.take_gradients()
        sums += torch.stack([part.detach(), forget.nll.detach().sum(), retain.nll.detach().sum(), g.sum()])
        pushed.append(forget.detach().bare())
        held.append(retain.detach().bare())
    return sums, _Window(figures={}, scorer_seconds=scoring, forget=pushed, retain=held)


def _total(x: Tensor, accelerator: Accelerator) -> Tensor:
    return accelerator.reduce(x, "sum")  # pyright: ignore[reportReturnType]


def _counts(window: Sequence[Batch], loss: ForgetLoss) -> Tensor:
    """Units of the forget loss, forget tokens, retain tokens of this process's share of a step."""
    tokens = sum(int((b.sequence < b.forget).sum()) for b in window)
    retain = sum(int((b.sequence >= b.forget + b.preferred).sum()) for b in window)
    units = tokens if loss.unit == "token" else sum(b.forget for b in window)
    return torch.tensor([units, tokens, retain], dtype=torch.float32)


def warm_up_then_fall(warmup: int, steps: int) -> Callable[[int], float]:
    """The share of the peak rate after so many steps: up over the warm-up, then straight down to 0."""

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return max(0.0, (steps - done) / max(steps - warmup, 1))

    return factor
