"""A run's settings become the parts of the loop: reference, importance, batches; then the unlearning itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import PreTrainedModel

from deleatur.config.run_config import Run
from deleatur.data.batches import windows
from deleatur.data.encode import Encoder, encode_all
from deleatur.distributed.processes import agree, is_first
from deleatur.errors import ConfigError
from deleatur.importance import SULLM, Contrast, Learned, Uniform
from deleatur.importance.atwu import LearnedImportance, MakeOptimizer, Scorer
from deleatur.importance.masks import Fixed
from deleatur.io.atomic import write_atomic
from deleatur.losses.reductions import RETAIN_TERMS
from deleatur.modeling.loading import add_adapters, checkpoint_activations
from deleatur.modeling.lora_targets import lora_targets
from deleatur.modeling.reference import make_reference, start_of
from deleatur.modeling.token_model import State, TokenModel
from deleatur.progress import Step
from deleatur.run_folder.writer import load_scorer
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.level import DRIFT, Level, unseen_level
from deleatur.training.loop import fit
from deleatur.training.monitor import TrainingMonitor
from deleatur.training.optimizer import warmup_then_linear_decay
from deleatur.training.scorer_pretraining import fit_scorer, pretrain_scorer
from deleatur.types import (
    AimsAtLevel,
    Batch,
    Encoded,
    ForgetLoss,
    Importance,
    Prefers,
    Prepares,
    ReadsTokens,
    Reference,
)


def train_method(
    model: TokenModel,
    rows: dict[str, list[Encoded]],
    run: Run,
    encoder: Encoder,
    accelerator: Accelerator,
    *,
    phase: Callable[[str], None] = lambda text: None,
    on_step: Callable[[Step, int], None] = lambda step, steps: None,
    folder: Path | None = None,
    monitor: TrainingMonitor | None = None,
    answers: Mapping[str, str] | None = None,
) -> tuple[Importance, list[Step]]:
    """The unlearning itself, in place; returns the importance as it ended and what each step did.

    `folder` is the run's, for what is too large for the memory, and for checkpoints, from the newest of which it goes on.
    `monitor` may end it before its last step. `answers` holds what the start model answers to retain rows, by their ids.
    """
    require_parts(model, run)
    if run.train.own_answers:
        rows = rows | {"retain": [*rows["retain"], *own_answers(rows["retain"], answers or {}, encoder)]}
    loss = run.loss.tokenized(encoder.tokens) if isinstance(run.loss, ReadsTokens) else run.loss
    preferred = preferred_rows(loss, rows["forget"], encoder)
    batches = list(step_batches(rows, run, preferred, accelerator))
    count = len(batches)
    passes = run.importance.pretrain if isinstance(run.importance, Learned) else 0
    pretraining = list(step_batches(rows, run, preferred, accelerator, epochs=passes))
    reference = reference_of(model, batches + pretraining, loss, run, folder)
    importance = make_importance(
        run, loss, model, rows, reference, accelerator, steps=count, pretraining_steps=len(pretraining)
    )
    known = isinstance(importance, (Fixed, Uniform))  # others depend on what the model says at each step
    level = unseen_level(model, rows, importance, run.evaluation.batch) if known else None
    loss = loss.at_level(known_level(loss, level)) if isinstance(loss, AimsAtLevel) else loss
    if monitor is not None:
        monitor.aim(importance, [*rows["forget"], *rows.get("holdout", ())], level)
    checkpoints, steps = resume_point(folder, run, count)
    if isinstance(importance, LearnedImportance) and pretraining and not steps:
        phase(f"The scorer alone: {passes} passes")
        pretrain_scorer(importance, model, pretraining)
    phase(f"Unlearning: {count} steps" + (f", of which {len(steps)} are done" if steps else ""))
    handle_signals = checkpoints.handle_signals() if checkpoints else nullcontext()
    holding = monitor.holding(importance, steps, checkpoints, count) if monitor else nullcontext()
    with training_only(model, run.train.only), handle_signals, holding:
        fit(
            model,
            batches,
            steps=count,
            loss=loss,
            importance=importance,
            settings=run.train,
            reference=reference,
            accelerator=accelerator,
            state=state_of(run),
            on_step=step_callback(steps, count, on_step, checkpoints, monitor),
            checkpoints=checkpoints,
        )
    return importance, steps


def own_answers(retain: Sequence[Encoded], answers: Mapping[str, str], encoder: Encoder) -> list[Encoded]:
    """The retain rows with what the start model answers to them, where that is something else than the rows say."""
    said = [(row.example, answers.get(row.example.id, "").strip()) for row in retain]
    return encode_all(encoder, [replace(e, answer=a, spans=()) for e, a in said if a and a != e.answer.strip()])


def known_level(loss: AimsAtLevel, level: Level | None) -> float:
    """The loss's own level, or the measured one less what training takes off. Raises ConfigError where there is neither."""
    if loss.level is not None:
        return loss.level
    if level is None:
        raise ConfigError("loss.level is unknown: give holdout rows, a level in nats, or an importance that selects tokens")
    return DRIFT * level.nll


def adapt(model: PreTrainedModel, run: Run, phase: Callable[[str], None] = lambda text: None) -> None:
    """Adapters and saved activations as the run has them. In place."""
    torch.manual_seed(run.seed)
    if run.lora.rank is not None:
        left = lora_targets(add_adapters(model, run.lora)).left_out
        phase(f"Adapters leave out {', '.join(left)}") if left else None
    if run.train.checkpointing:
        checkpoint_activations(model)


def resume_point(folder: Path | None, run: Run, count: int) -> tuple[Checkpoints | None, list[Step]]:
    """Where the training keeps its state, and which of its steps are done there; without a folder nothing is kept."""
    if folder is None:
        return None, []
    checkpoints = Checkpoints(folder / "checkpoints", every=run.keep.every, keep=run.keep.newest)
    steps = steps_before(folder / "steps.jsonl", checkpoints)
    if len(steps) < count:
        (folder / "records" / "after.jsonl").unlink(missing_ok=True)  # it would be of another training
    return checkpoints, steps


def step_callback(
    steps: list[Step],
    count: int,
    on_step: Callable[[Step, int], None],
    checkpoints: Checkpoints | None,
    monitor: TrainingMonitor | None,
) -> Callable[[Step], int | None]:
    """Adds each step to `steps`, reports it, and has the monitor check it."""

    def callback(step: Step) -> int | None:
        steps.append(step)
        on_step(step, count)
        if monitor is None:
            return None
        return monitor.look(steps, kept=checkpoints is not None and checkpoints.due(step.step, count))

    return callback


def steps_before(log: Path, checkpoints: Checkpoints) -> list[Step]:
    """The steps that the newest checkpoint has behind it; the log's later lines are cut off."""
    newest = checkpoints.newest()
    lines = agree(lambda: log.read_text(encoding="utf-8").splitlines()[:newest] if log.exists() else [])
    if is_first():
        write_atomic(log, (f"{line}\n" for line in lines))
    return [Step(**json.loads(line)) for line in lines]


def step_batches(
    rows: dict[str, list[Encoded]],
    run: Run,
    preferred: Sequence[Sequence[Encoded]],
    accelerator: Accelerator,
    *,
    epochs: int | None = None,
) -> Iterator[list[Batch]]:
    """This process's batches of every step."""
    schedule = _schedule(run) | ({} if epochs is None else {"epochs": epochs})
    share = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    return windows(rows["forget"], rows["retain"], **schedule, seed=run.seed, preferred=preferred, **share)


def preferred_rows(loss: ForgetLoss, forget: Sequence[Encoded], encoder: Encoder) -> list[list[Encoded]]:
    """For each forget row the answers to give instead; none for a loss that prefers nothing."""
    if not isinstance(loss, Prefers):
        return []
    examples = [[replace(r.example, answer=a, spans=()) for a in loss.answers(r.example)] for r in forget]
    return [encode_all(encoder, instead) for instead in examples]


def reference_of(
    model: TokenModel, batches: Iterable[Sequence[Batch]], loss: ForgetLoss, run: Run, folder: Path | None
) -> Reference:
    """The start model's outputs for the rows of training, where loss or retain term need them."""
    held = frozenset({"divergence"} if run.train.keep else ())
    wants = [loss.needs, loss.needs, RETAIN_TERMS[run.train.retain][1]]  # of forget, preferred and retain rows
    if "divergence" in loss.needs | wants[2] | held:  # made in the forward pass, for all of its rows
        wants = [want | {"divergence"} for want in wants]
    needed = [any(need.startswith(("reference", "divergence")) for need in want) for want in wants]
    met: list[Encoded] = []
    for batch in (b for window in batches for b in window):
        ends = batch.forget, batch.forget + batch.preferred
        sides = batch.rows[: ends[0]], batch.rows[ends[0] : ends[1]], batch.rows[ends[1] :]
        met += [row for side, wanted in zip(sides, needed, strict=True) if wanted for row in side]
    layer = getattr(loss, "layer", None)
    needs = loss.needs | wants[2]
    return make_reference(model, met, needs=needs, layer=layer, batch=run.evaluation.batch, folder=folder)


def make_importance(
    run: Run,
    loss: ForgetLoss,
    model: TokenModel,
    rows: dict[str, list[Encoded]],
    reference: Reference,
    accelerator: Accelerator,
    *,
    steps: int,
    pretraining_steps: int = 0,
) -> Importance:
    """The importance that the run names: as it stands, made from the start model, or with its scorer.

    The scorer's rate falls over its turns: in so many steps with the model, after so many alone.
    """
    settings = run.importance
    if isinstance(settings, Prepares):
        return settings.prepare(start_of(model, rows, batch=run.evaluation.batch, precision=run.train.precision))
    if not isinstance(settings, Learned):
        return settings
    learned = LearnedImportance(
        settings,
        width=model.width,
        turns=pretraining_steps + (0 if settings.frozen else steps // settings.every),
        loss=loss,
        reference=reference,
        total=lambda x: accelerator.reduce(x, "sum"),  # pyright: ignore[reportArgumentType]
        gamma=run.train.gamma if settings.joint else 1.0,
        make_optimizer=_joint_optimizer(run, steps) if settings.joint else None,
    )
    if begun := scorer_to_start_from(settings, model):
        learned.scorer.load_state_dict(begun.state_dict())
    learned.scorer.to(model.device)
    if settings.warm:
        fit_scorer(
            learned,
            model,
            Contrast().prepare(start_of(model, rows, batch=run.evaluation.batch, precision=run.train.precision)),
            rows["forget"],
            run.evaluation.batch,
        )
    return learned


def scorer_to_start_from(settings: Learned, model: TokenModel) -> Scorer | None:
    """The scorer of the run that the settings name. Raises ConfigError or ModelError where it is of another kind."""
    if settings.start is None:
        return None
    begun = load_scorer(Path(settings.start), model.width)
    if begun.depth != settings.depth:
        raise ConfigError(f"importance.depth is {settings.depth}, but the scorer of {settings.start} has {begun.depth}")
    return begun


@contextmanager
def training_only(model: TokenModel, pattern: str | None) -> Iterator[None]:
    """Only weights with a name in which the pattern is found are trained meanwhile; none leaves all as they are."""
    chosen = [] if pattern is None else [p for n, p in model.lm.named_parameters() if not re.search(pattern, n)]
    held = [p for p in chosen if p.requires_grad]
    for p in held:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in held:
            p.requires_grad_(True)


def require_parts(model: TokenModel, run: Run) -> None:
    """Refuse a pattern that names no weight, a layer or scorer that does not fit, a missing model to compare with."""
    pattern, layer = run.train.only, getattr(run.loss, "layer", None)
    if pattern is not None and not any(re.search(pattern, name) for name, _ in model.lm.named_parameters()):
        raise ConfigError(f"train.only is {pattern!r}, which is found in no weight's name; the first is {_first(model.lm)}")
    if layer is not None and layer >= model.layers - 1:  # the last one's output is only known behind the last norm
        raise ConfigError(f"loss.layer is {layer}, but of the model's layers 0 to {model.layers - 2} can be steered")
    if isinstance(run.importance, SULLM):
        run.importance.require_base()
    if isinstance(run.importance, Learned):
        scorer_to_start_from(run.importance, model)


def state_of(run: Run) -> State:
    """Which hidden state the run's importance reads."""
    return run.importance.state if isinstance(run.importance, Learned) else "own"


def _joint_optimizer(run: Run, steps: int) -> MakeOptimizer:
    """AdamW at the model's own rate, so that a turn in the same step as the model's is a step down one common objective."""

    def make_optimizer(parameters: Iterable[nn.Parameter]) -> tuple[Optimizer, LRScheduler]:
        adamw = AdamW(parameters, lr=run.train.lr, weight_decay=run.train.weight_decay)
        return adamw, LambdaLR(adamw, warmup_then_linear_decay(round(run.train.warmup * steps), steps))

    return make_optimizer


def _schedule(run: Run) -> dict[str, Any]:
    return {name: getattr(run.train, name) for name in ("epochs", "batch", "tokens", "accumulate")}


def _first(lm: nn.Module) -> str:
    return next(name for name, _ in lm.named_parameters())
