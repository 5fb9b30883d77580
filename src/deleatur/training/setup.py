"""A run's settings become the parts of the loop: reference, importance, batches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from deleatur.config.method import MethodSettings
from deleatur.config.run_config import Run
from deleatur.data.batches import Schedule, step_windows
from deleatur.data.encode import Encoder, encode_all
from deleatur.distributed.processes import start
from deleatur.errors import ConfigError
from deleatur.losses.retain import RETAIN_TERMS
from deleatur.modeling.reference import make_reference, start_of
from deleatur.modeling.session import Session
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.plain_parts import as_callable
from deleatur.protocols import (
    AimsAtLevel,
    ForgetLoss,
    Importance,
    Learns,
    Prefers,
    Prepares,
    ReadsBaseModel,
    ReadsTokens,
    TrainingContext,
)
from deleatur.requirements import Requirements
from deleatur.settings import Train
from deleatur.training.level import Level, blended, unseen_level
from deleatur.training.loop import Method, total
from deleatur.training.optimizer import warmup_then_linear_decay
from deleatur.types import Batch, Encoded, Reference, Start

Windows = list[list[Batch]]  # the batches of each optimizer step


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What the loop works with."""

    method: Method
    batches: Windows
    pretraining: Windows  # for the importance alone, before the first step
    level: Level | None  # the NLL that forget tokens should reach


def make_parts(session: Session, run: Run, answers: Mapping[str, str], first: StartPass) -> Parts:
    """Everything that is made before the first step, from what `first` reads. `answers` holds the start model's answers to
    retain rows, by their ids.

    Raises ConfigError, ModelError or DataError where the parts do not suit the model or the rows.
    """
    model, rows, encoder = session.model, session.rows, session.encoder
    check_parts(model, run.method)
    if run.train.own_answers:
        rows = {**rows, "retain": [*rows["retain"], *own_answers(rows["retain"], answers, encoder)]}
    loss: ForgetLoss = run.loss
    loss = loss.tokenized(encoder.tokens) if isinstance(loss, ReadsTokens) else loss
    settings = replace(run.method, loss=loss)
    preferred = preferred_rows(loss, rows["forget"], encoder)
    batches = list(step_batches(rows, run.train, preferred, seed=run.seed))
    passes = run.importance.pretrain if isinstance(run.importance, Learns) else 0
    pretraining = list(step_batches(rows, run.train, preferred, seed=run.seed, epochs=passes))
    session = replace(session, rows=rows)
    reference = reference_of(session, batches + pretraining, settings, first)
    counts = {"steps": len(batches), "pretraining_steps": len(pretraining)}
    importance = make_importance(session, settings, reference, first, **counts)
    fixed = importance.requires.follows is None  # others depend on what the model says at each step
    level = unseen_level(first, rows, importance) if fixed else None
    if isinstance(loss, AimsAtLevel):
        given, loss = loss.level, loss.at_level(known_level(loss, level))
        if level is not None and reference.teacher is not None:  # else it selects nothing in particular
            teacher = blended(reference.teacher, first, rows, importance)
            reference = replace(reference, teacher=teacher, level=level.at if given is None else None)
    method = Method(loss=loss, importance=importance, settings=run.train, reference=reference)
    return Parts(method=method, batches=batches, pretraining=pretraining, level=level)


def own_answers(retain: Sequence[Encoded], answers: Mapping[str, str], encoder: Encoder) -> list[Encoded]:
    """The retain rows with the start model's answers, where these differ from the rows'."""
    answered = [(row.example, answers.get(row.example.id, "").strip()) for row in retain]
    return encode_all(encoder, [replace(e, answer=a, spans=()) for e, a in answered if a and a != e.answer.strip()])


def known_level(loss: AimsAtLevel, level: Level | None) -> float:
    """The loss's own level, or else the measured one. Raises ConfigError where there is neither."""
    if loss.level is not None:
        return loss.level
    if level is None:
        raise ConfigError(
            "loss.level is unknown, since the importance selects none or all of the forget tokens: give holdout rows, a "
            "level in nats, or more retain rows of the same kind"
        )
    return level.nll


def step_batches(
    rows: Mapping[str, list[Encoded]],
    train: Train,
    preferred: Sequence[Sequence[Encoded]],
    *,
    seed: int,
    epochs: int | None = None,
) -> Iterator[list[Batch]]:
    """This process's batches of every step; `epochs` in place of the settings' own."""
    accelerator = start()
    schedule = Schedule(
        epochs=train.epochs if epochs is None else epochs,
        batch=train.batch,
        tokens=train.tokens,
        accumulate=train.accumulate,
        seed=seed,
    )
    share = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    return step_windows(rows["forget"], rows["retain"], schedule, preferred=preferred, **share)


def preferred_rows(loss: ForgetLoss, forget: Sequence[Encoded], encoder: Encoder) -> list[list[Encoded]]:
    """For each forget row the answers to give instead; none for a loss that prefers nothing."""
    if not isinstance(loss, Prefers):
        return []
    examples = [[replace(r.example, answer=a, spans=()) for a in loss.answers(r.example)] for r in forget]
    return [encode_all(encoder, instead) for instead in examples]


def reference_of(
    session: Session, batches: Iterable[Sequence[Batch]], method: MethodSettings, first: StartPass
) -> Reference:
    """The start model's outputs for the rows of training, where loss or retain term need them."""
    loss, retain = method.loss.requires, RETAIN_TERMS[method.train.retain].requires
    requires = loss | retain | Requirements(divergence=method.train.keep > 0)
    # forget, preferred and retain rows; a divergence is made in the forward pass, for all of its rows
    needed = [requires.divergence or each.reference for each in (loss, loss, retain)]
    met: list[Encoded] = []
    for b in (b for window in batches for b in window):
        ends = b.forget, b.forget + b.preferred
        sides = b.rows[: ends[0]], b.rows[ends[0] : ends[1]], b.rows[ends[1] :]
        met += [row for side, wanted in zip(sides, needed, strict=True) if wanted for row in side]
    return make_reference(first, met, requires, folder=session.folder)


def make_importance(
    session: Session,
    method: MethodSettings,
    reference: Reference,
    first: StartPass,
    *,
    steps: int,
    pretraining_steps: int = 0,
) -> Importance:
    """The importance that the method names: as it stands, made from the start model, or with its scorer.

    `steps` are those with the model, `pretraining_steps` those of the importance alone before.
    """
    settings, model, train = method.importance, session.model, method.train

    def start_model() -> Start:
        """What the importance may read of the start model."""
        return start_of(first, session.rows, precision=train.precision)

    if isinstance(settings, Prepares):
        return as_callable(settings.prepare(start_model()))
    if not isinstance(settings, Learns):
        return settings
    context = TrainingContext(
        loss=method.loss,
        reference=reference,
        train=train,
        width=model.width,
        steps=steps,
        pretraining_steps=pretraining_steps,
        device=model.device,
        start=start_model,
        rate=warmup_then_linear_decay(round(train.warmup * steps), steps),
        total=lambda x: total(x, start()),
    )
    return settings.build(context)


def check_parts(model: TokenModel, method: MethodSettings) -> None:
    """Refuse a pattern that names no weight, a layer or scorer that does not fit, a missing model to compare with."""
    pattern, layer = method.train.only, method.loss.requires.layer
    if pattern is not None and not any(re.search(pattern, name) for name, _ in model.lm.named_parameters()):
        raise ConfigError(f"train.only is {pattern!r}, which is found in no weight's name; the first is {_first(model.lm)}")
    if layer is not None and layer >= model.layers - 1:  # the last one's output is only known behind the last norm
        raise ConfigError(f"loss.layer is {layer}, but of the model's layers 0 to {model.layers - 2} can be steered")
    if layer is not None and pattern is not None and not _reaches(model, pattern, layer):
        raise ConfigError(f"train.only is {pattern!r}, which matches no weight up to layer {layer}, where the loss is read")
    if isinstance(method.importance, ReadsBaseModel):
        method.importance.check_base()
    if isinstance(method.importance, Learns):
        method.importance.check_start(model.width)


def _reaches(model: TokenModel, pattern: str, layer: int) -> bool:
    """Does a weight that matches change the state after the layer? True where the family's layers are not known."""
    if model.layer_list is None:
        return True
    before = [model.lm.get_input_embeddings(), *model.layer_list[: layer + 1]]
    inside = {id(p) for module in before for p in module.parameters()}
    return any(id(p) in inside and re.search(pattern, name) for name, p in model.lm.named_parameters())


def _first(lm: nn.Module) -> str:
    return next(name for name, _ in lm.named_parameters())
