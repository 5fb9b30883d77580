"""Callbacks by which a running command reports its phase, each step of training, each evaluated batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "Step"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one optimizer step did."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Callbacks of a run; each does nothing unless given.

    Examples:
        >>> from deleatur.progress import Progress
        >>> progress = Progress(phase=print, step=lambda step, steps: print(f"{step.step}/{steps}: {step.loss:.3f}"))
        >>> progress.phase("Training")
        Training
    """

    phase: Callable[[str], None] = lambda text: None
    step: Callable[[Step, int], None] = lambda step, steps: None
    evaluated: Callable[[str, int, int, str], None] = lambda what, done, total, rate: None
