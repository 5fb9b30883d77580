"""Unlearning: prepare the model, train it in place under the monitor, and leave it ready to evaluate and save."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from deleatur.config.run_config import Run
from deleatur.distributed.processes import agree, is_first, place_model, start, will_shard
from deleatur.errors import DataError, Diverged
from deleatur.evaluation.predictions import Predictor
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.checks import check_finite
from deleatur.modeling.loading import add_adapters, checkpoint_activations, merge_adapters
from deleatur.modeling.lora_targets import lora_targets
from deleatur.modeling.session import Session
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.protocols import Importance, TrainableImportance
from deleatur.run_folder.file_types import Ended, StepLine
from deleatur.run_folder.schema import read_complete_lines, write_lines
from deleatur.settings import Evaluation, Keep, Lora
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.loop import fit
from deleatur.training.monitor import TrainingMonitor
from deleatur.training.setup import make_parts
from deleatur.types import Batch, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The result of a training."""

    importance: Importance  # as it ended
    steps: list[Step]
    ended: Ended = "all steps"
    notes: list[str] = field(default_factory=list)


def train(session: Session, run: Run, answers: Mapping[str, str]) -> Trained:
    """Train the session's model in place and merge its adapters: what unlearning does between its evaluations.

    `answers` holds what the start model answers to retain rows, by their ids. With a folder it resumes from the newest
    checkpoint there. Raises Diverged where the model was damaged and there is no checkpoint to go back to.
    """
    model, progress = session.model, session.progress
    if not will_shard():  # else they were added before the weights were sharded
        adapt(model, run.lora, seed=run.seed, checkpointing=run.train.checkpointing)
    if run.lora.rank is not None and (left := lora_targets(model.lm).left_out):
        progress.phase(f"Adapters leave out {', '.join(left)}")
    torch.manual_seed(run.seed)
    session = reasoned(session, run.evaluation)
    with training_only(model, run.train.only):
        first = session.start or StartPass(model, batch=run.evaluation.batch)
        monitor = TrainingMonitor(run.guard, run.train, first, session.rows, session.encoder)
        parts = make_parts(session, run, answers, first)
        importance, count = parts.method.importance, len(parts.batches)
        monitor.set_target(importance, [*session.rows["forget"], *session.rows.get("holdout", ())], parts.level, first)
        del first  # its states are of the start
        checkpoints, steps = resume_point(session.folder, run.keep, count)
        if isinstance(importance, TrainableImportance) and parts.pretraining and not steps:
            progress.phase(f"The scorer alone: {len(parts.pretraining) * run.train.epochs // count} passes")
            pretrain(importance, model, parts.pretraining)
        progress.phase(f"Unlearning: {count} steps" + (f", of which {len(steps)} are done" if steps else ""))
        on_step = step_callback(steps, count, progress.step, checkpoints, monitor)
        handle_signals = checkpoints.handle_signals() if checkpoints else nullcontext()
        with handle_signals, monitor.rolling_back(importance, steps, checkpoints, count):
            fit(model, parts.batches, parts.method, steps=count, on_step=on_step, checkpoints=checkpoints)
    for note in monitor.notes:
        progress.phase(note)
    merge_adapters(model.lm)  # what is evaluated is what is saved
    check_finite(model.lm, Diverged, "the last step; lower train.lr or train.gamma")
    return Trained(importance=importance, steps=steps, ended=monitor.ended, notes=monitor.notes)


def reasoned(session: Session, settings: Evaluation) -> Session:
    """The session with the model's own reasoning before the answers, where its chat template opens a block for it."""
    predictor = Predictor(
        model=session.model, encoder=session.encoder, settings=settings, progress=session.progress.evaluated
    )
    sets, _ = with_reasoning(predictor, session.rows)
    return replace(session, rows={name: list(rows) for name, rows in sets.items()})


def place(model: TokenModel, lora: Lora, *, seed: int, checkpointing: bool) -> None:
    """The model on its device, or its weights sharded over the processes, with the adapters that have to be there before."""
    start()
    if will_shard():
        adapt(model, lora, seed=seed, checkpointing=checkpointing)
    place_model(model)


def adapt(model: TokenModel, lora: Lora, *, seed: int, checkpointing: bool) -> None:
    """Adapters, which start as the seed decides, and activations made again where `checkpointing` says so. In place."""
    torch.manual_seed(seed)
    if lora.rank is not None:
        add_adapters(model.lm, lora)
        model.prepare()  # its layers are others now
    if checkpointing:
        checkpoint_activations(model.lm)


@torch.no_grad()
def pretrain(importance: TrainableImportance, model: TokenModel, batches: Iterable[Sequence[Batch]]) -> None:
    """Updates of the importance alone; the model stays as it is."""
    model.eval()
    for window in batches:
        forget, retain = [], []
        for batch in window:
            tokens, rest = model(batch.to(model.device), **importance.requires.forward).split(batch.forget)
            forget.append(tokens)
            retain.append(rest.split(batch.preferred)[1])
        with torch.enable_grad():
            importance.update(TokenOutputs.join(forget), TokenOutputs.join(retain))


def resume_point(folder: Path | None, keep: Keep, count: int) -> tuple[Checkpoints | None, list[Step]]:
    """Where the training keeps its state, and which of its steps are done there; without a folder nothing is kept."""
    if folder is None:
        return None, []
    checkpoints = Checkpoints(folder / "checkpoints", every=keep.every, keep=keep.newest)
    steps = steps_before(folder / "steps.jsonl", checkpoints)
    if len(steps) < count:
        (folder / "records" / "after.jsonl").unlink(missing_ok=True)  # it would be of another training
    return checkpoints, steps


def step_callback(
    steps: list[Step],
    count: int,
    on_step: Callable[[Step, int], None],
    checkpoints: Checkpoints | None,
    monitor: TrainingMonitor,
) -> Callable[[Step], int | None]:
    """Adds each step to `steps`, reports it, and has the monitor check it."""

    def callback(step: Step) -> int | None:
        """Note the step, report it, and return the step to go back to, if there is one."""
        steps.append(step)
        on_step(step, count)
        kept = checkpoints is not None and checkpoints.due(step.step, count)
        return monitor.check_step(steps, kept=kept, count=count)

    return callback


def steps_before(log: Path, checkpoints: Checkpoints) -> list[Step]:
    """The steps up to the newest checkpoint; the log's later lines are cut off."""
    newest = checkpoints.newest()
    lines = agree(lambda: read_complete_lines(log, StepLine)[:newest])
    if is_first():
        write_lines(log, lines)
    try:
        return [Step(**cast(dict[str, Any], line)) for line in lines]
    except TypeError as e:
        raise DataError(f"{log} holds a step of another version ({e}); start a new run") from None


@contextmanager
def training_only(model: TokenModel, pattern: str | None) -> Iterator[None]:
    """Inside, only weights whose name matches the pattern are trained; without a pattern all stay as they are.

    What lies below the first trained layer is computed once for each row.
    """
    chosen = [] if pattern is None else [p for n, p in model.lm.named_parameters() if not re.search(pattern, n)]
    held = [p for p in chosen if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        with model.frozen_once() if held else nullcontext():
            yield
    finally:
        for p in held:
            p.requires_grad_(True)
