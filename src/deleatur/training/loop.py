"""fit(): the one loop. It knows no method by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from deleatur.config.method import requirements_of
from deleatur.distributed.processes import is_sharded, mesh_of, start, sum_gradients
from deleatur.losses.erase import towards
from deleatur.losses.reductions import require_output
from deleatur.losses.retain import RETAIN_TERMS
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.protocols import ForgetLoss, Importance, Stateful, TrainableImportance
from deleatur.requirements import Requirements
from deleatur.settings import Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.memory import forget_peak_memory, peak_memory, ran_out
from deleatur.training.optimizer import ModelOptimizer, make_optimizer
from deleatur.types import Batch, Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A forget loss with an importance, how they are trained, and the start model's numbers that they read."""

    loss: ForgetLoss
    importance: Importance
    settings: Train
    reference: Reference = field(default_factory=Reference)

    @property
    def requires(self) -> Requirements:
        """All that is read besides the NLL."""
        return requirements_of(self.loss, self.importance, self.settings)


def fit(
    model: TokenModel,
    windows: Iterable[Sequence[Batch]],
    method: Method,
    *,
    steps: int,
    on_step: Callable[[Step], int | None] = lambda step: None,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Train `model` in place, one optimizer step a window. Raises Diverged before a step that is not finite.

    With `checkpoints` it resumes after the newest, to the same bits, and raises Interrupted after the step in which a signal
    came; `windows` starts with the first step's in any case. Every loss is a sum divided by the count over all batches and
    processes of the step, so how rows are split does not change it. With `settings.bound` the weight of the retain term
    rises while the retain NLL is above the bound and falls while it is below (primal-dual, 2506.05314). A number that
    `on_step` returns ends training after so many steps more, over which the rate falls to 0.
    """
    optimizer = make_optimizer(model, method.settings, steps)
    try:
        _fit(model, windows, method, optimizer, on_step, checkpoints)
    finally:
        optimizer.release()


def _fit(
    model: TokenModel,
    windows: Iterable[Sequence[Batch]],
    method: Method,
    optimizer: ModelOptimizer,
    on_step: Callable[[Step], int | None],
    checkpoints: Checkpoints | None,
) -> None:
    accelerator, importance = start(), method.importance
    model.train()
    done_steps = _resume(checkpoints, optimizer, importance)
    forget_peak_memory()
    for number, window in enumerate(windows, start=1):
        if number <= done_steps:
            for batch in window:
                model.read(batch)  # what is computed once for a row then has the same bits
            continue
        if number > optimizer.end:
            break
        began, cpu = time.perf_counter(), time.process_time()
        lr, now = optimizer.lr, replace(method, settings=replace(method.settings, alpha=optimizer.alpha))
        done = _backward(model, window, now, optimizer, accelerator)
        norm = optimizer.step(number, done.figures["loss"], done.figures["retain_nll"])
        turned, scorer = time.perf_counter(), None
        if isinstance(importance, TrainableImportance) and importance.updates_after(number):
            scorer = importance.update(TokenOutputs.join(done.forget), TokenOutputs.join(done.retain))
        costs = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "scorer_seconds": time.perf_counter() - turned + done.scorer_seconds,
            "memory": peak_memory(),
        }
        left = on_step(Step(step=number, **done.figures, grad_norm=norm, lr=lr, scorer=scorer, **costs))
        if left:
            optimizer.cool_down(number, left)
        if checkpoints is not None and checkpoints.due(number, optimizer.end):
            checkpoints.save(number, {"model": optimizer.state_dict(), "importance": _state_of(importance)})
            checkpoints.stop_if_requested(number)
    model.eval()


def _resume(checkpoints: Checkpoints | None, optimizer: ModelOptimizer, importance: Importance) -> int:
    """How many steps the newest checkpoint has done, with its state put back; 0 where there is none."""
    step = 0 if checkpoints is None else checkpoints.newest()
    if checkpoints is None or not step:
        return 0
    state = checkpoints.load(step, mesh=mesh_of(optimizer.weights.master[0]))
    optimizer.load_state_dict(state["model"])
    if isinstance(importance, Stateful):
        importance.load_state_dict(state["importance"])
    return step


def _state_of(importance: Importance) -> dict[str, Any]:
    """What an importance has learned; nothing of one that does not learn."""
    return importance.state_dict() if isinstance(importance, Stateful) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Window:
    """What the backward passes of one step found; the gradients are in `.grad`."""

    figures: dict[str, float]  # loss, forget_nll, retain_nll, importance
    scorer_seconds: float
    forget: list[TokenOutputs]  # held fixed
    retain: list[TokenOutputs]


def _backward(
    model: nn.Module, window: Sequence[Batch], method: Method, optimizer: ModelOptimizer, accelerator: Accelerator
) -> _Window:
    """Forward and backward of every batch of a step; means are over the whole step and all processes.

    Where the memory runs out, all of it again in smaller pieces.
    """
    device = accelerator.device
    counts = total(_counts(window, method.loss).to(device), accelerator).clamp(min=1)  # plain fine-tuning has no forget side
    scale = accelerator.num_processes if is_sharded(model) else 1  # engines take the mean over processes
    while True:
        try:
            sums, made = _passes(optimizer, window, method, counts, scale)
            break
        except RuntimeError as e:
            if not ran_out(e):
                raise
            if is_sharded(model):
                e.add_note(
                    "A process with sharded weights cannot retry alone: halve --train.batch and double --train.accumulate"
                )
                raise
        optimizer.weights.drop_gradients()
        optimizer.pieces.halve(window)
    if not is_sharded(model):
        sum_gradients(optimizer.weights.master)
    sums = total(sums, accelerator) / torch.stack([counts[0].new_ones(()), counts[1], counts[2], counts[1]])
    names: tuple[str, ...] = ("loss", "forget_nll", "retain_nll", "importance")
    return replace(made, figures=dict(zip(names, sums.tolist(), strict=True)))


def _passes(
    optimizer: ModelOptimizer, window: Sequence[Batch], method: Method, counts: Tensor, scale: int
) -> tuple[Tensor, _Window]:
    """This process's part: the sums of loss, forget NLL, retain NLL and importance, and what the passes found."""
    device, settings, reference, reads = counts.device, method.settings, method.reference, method.requires
    sums, pushed, held, scoring = torch.zeros(4, device=device), [], [], 0.0
    teacher = reference.teacher if reads.divergence else None
    for batch in optimizer.pieces.of(window):
        forget, rest = optimizer.run(batch.to(device), **reads.forward, teacher=teacher).split(batch.forget)
        preferred, retain = rest.split(batch.preferred)
        forget = replace(forget, preferred=preferred) if reads.preferred else forget
        began = time.perf_counter()
        g = method.importance(forget)
        scoring += time.perf_counter() - began
        kept = RETAIN_TERMS[settings.retain].cost(retain, reference).sum()
        push = method.loss(forget, g, reference) / counts[0]
        if settings.keep:
            level = reference.level
            cost = require_output(forget.divergence).kept if level is None else towards(forget, level(forget))
            push = push + settings.keep * ((1 - g).clamp(min=0) * cost).sum() / counts[1]
        part = settings.gamma * push + settings.alpha * kept / counts[2]
        optimizer.backward(part * scale)
        sums += torch.stack([part.detach(), forget.nll.detach().sum(), retain.nll.detach().sum(), g.sum()])
        pushed.append(forget.detach().bare())
        held.append(retain.detach().bare())
    return sums, _Window(figures={}, scorer_seconds=scoring, forget=pushed, retain=held)


def total(x: Tensor, accelerator: Accelerator) -> Tensor:
    """The tensor summed over all processes; all have to call."""
    reduced: Any = accelerator.reduce(x, "sum")
    return reduced


def _counts(window: Sequence[Batch], loss: ForgetLoss) -> Tensor:
    """Units of the forget loss, forget tokens, retain tokens of this process's share of a step."""
    tokens = sum(int((b.sequence < b.forget).sum()) for b in window)
    retain = sum(int((b.sequence >= b.forget + b.preferred).sum()) for b in window)
    units = tokens if loss.unit == "token" else sum(b.forget for b in window)
    return torch.tensor([units, tokens, retain], dtype=torch.float32)
