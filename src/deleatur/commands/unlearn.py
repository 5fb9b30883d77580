"""The only module that knows every stage: rows → examples → before → unlearning → after → run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.commands.inputs import (
    before_training,
    encode_sets,
    judge_of,
    predict,
    read_or_evaluate,
    reading_notes,
    require_finite,
    require_trained,
    require_usable,
    rows_suite,
    suite_of,
)
from deleatur.commands.start_model import StartModel, Weights, loaded_if_there, weights_of, with_weights
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run, to_yaml
from deleatur.data.encode import make_encoder
from deleatur.data.rows import refuse_overlap, rows_from
from deleatur.distributed.processes import agree, gather, is_first, place_model, start, will_shard
from deleatur.errors import ConfigError, Diverged, resume_hint
from deleatur.evaluation.aggregate import answer_notes, lacking_coherence
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.importance.atwu import LearnedImportance
from deleatur.io.atomic import write_atomic
from deleatur.io.lock import folder_lock
from deleatur.modeling.loading import exact_matmul, load, merge_adapters, prepare
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.report import write_report
from deleatur.run_folder.writer import (
    Outcome,
    Records,
    claimed,
    free_folder,
    has_results,
    require_empty,
    require_same_rows,
    require_space,
    results_of,
    unfinished_folder,
    write_outcome,
)
from deleatur.settings import require
from deleatur.training.monitor import TrainingMonitor, nothing_forgotten
from deleatur.training.setup import adapt, require_parts, train_method, training_only
from deleatur.types import Encoded, Importance, Record, Suite


def execute(run: Run, progress: Progress = Progress(), *, resume: bool = False) -> Path:
    """Carry out a run and fill its folder; returns the folder. Nothing is written before every input is checked.

    With `resume` the folder `run.out` is one that was interrupted: it goes on from the newest checkpoint, to the same bits.
    Raises Interrupted on SIGINT or SIGTERM.
    """
    start()
    out = Path(agree(lambda: str(unfinished_folder(run) if resume else free_folder(run))))
    if resume and has_results(out):
        with folder_lock(out) if is_first() else nullcontext():
            return finish(out)
    suite = suite_of(run)
    require_trained(suite)
    run = replace(run, out=str(out))
    judge_of(run)  # is it there?
    model, tokenizer = load(run.model, precision=run.train.precision, bits=run.lora.bits)
    rows = encode_sets(suite.sets, tokenizer, run)
    require_usable(model, rows, run)
    require_parts(TokenModel(model), run)
    require_space(model, out, run)
    with claimed(out, lambda: _claim(run, out, resume), resume=resume):
        return _carry_out(run, model, tokenizer, rows, suite, progress)


def _claim(run: Run, out: Path, resume: bool) -> None:
    """The folder is this run's; from here on it can be gone on with."""
    unfinished_folder(run) if resume else require_empty(out)  # another run may have been quicker
    if not resume:
        write_atomic(out / "run.yaml", to_yaml(run))


def _carry_out(
    run: Run,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Encoded]],
    suite: Suite,
    progress: Progress,
) -> Path:
    """What comes of a checked run, in its folder."""
    out = Path(run.out or "")
    require_same_rows(out, rows)
    progress.phase(to_yaml(run).rstrip())
    for note in reading_notes(rows, run):
        progress.phase(note)

    def log_step(step: Step, steps: int) -> None:
        if is_first():
            with (out / "steps.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(step)) + "\n")
        progress.step(step, steps)

    with resume_hint(f"deleatur forget {out} --resume"):
        outcome = unlearn(model, tokenizer, rows, run, replace(progress, step=log_step), suite=suite, folder=out)
        progress.phase("Writing the run folder")
        write_outcome(outcome, tokenizer, out)
        gather(None)  # nobody reads on before all is there
        return finish(out)


def finish(out: Path) -> Path:
    """What is left to do once there are results; returns the folder. Raises Diverged where they are of a run rolled back."""
    if is_first():
        write_report(out)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # the run is complete without them
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    if results.get("ended") == "rolled back":
        raise Diverged(f"{results['notes'][0].rstrip('.')}; the model of that step and its report are in {out}")
    return out


def forget(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Iterable[Mapping[str, object]],
    retain: Iterable[Mapping[str, object]],
    holdout: Iterable[Mapping[str, object]] | None = None,
    recipe: str = "atwu",
    progress: Progress = Progress(),
    **settings: Any,
) -> Outcome:
    """Unlearn rows from a loaded model, in place: `deleatur forget` from Python. Nothing is written.

    A copy of the weights stays in the processor's memory, for a last look at the answers by the model before training;
    under FSDP2 or ZeRO-3 that look is left out.

    Args:
        model: A causal language model; it is changed in place.
        tokenizer: The model's tokenizer; its chat template is used where it has one.
        forget: Rows to forget, as dicts or a data set, in any form that files may have.
        retain: Rows to keep, likewise; none may be a forget row too.
        holdout: Rows that the model never saw, evaluated for comparison.
        recipe: Name of a method in `RECIPES`.
        progress: Callbacks for phases and steps.
        **settings: Fields of `Run` in place of the recipe's: seed, loss, importance, data, lora, train, guard,
            evaluation, judge.

    Returns:
        The model, the scorer where the importance is learned, `results` (as in results.json), the records made
        before and after, and the steps. A training that was rolled back is no error: `results["ended"]` says so.

    Raises:
        DataError, ConfigError, ModelError: A row, a setting or the model cannot be used; checked before training.
        Diverged: A weight is not finite after the last step.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"recipe is {recipe!r}, but must be one of {', '.join(RECIPES)}")
    run = RECIPES[recipe].run(
        model=str(model.name_or_path or type(model).__name__), forget="rows", retain="rows", **settings
    )
    require(run.lora.bits is None, "lora.bits", run.lora.bits, "left out: the model is loaded; load it in 4 bits yourself")
    given = {"forget": forget, "retain": retain} | ({} if holdout is None else {"holdout": holdout})
    sets = {name: rows_from(rows, name=name, settings=run.data) for name, rows in given.items()}
    refuse_overlap(sets["forget"], sets["retain"])
    encoded = encode_sets(sets, tokenizer, run)
    require_usable(model, encoded, run)
    start()
    prepared = prepare(model)
    kept = None if will_shard() else weights_of(prepared)
    return unlearn(prepared, tokenizer, encoded, run, progress, weights=kept)


def unlearn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Encoded]],
    run: Run,
    progress: Progress = Progress(),
    *,
    suite: Suite | None = None,
    folder: Path | None = None,
    known: Mapping[str, Records] | None = None,
    weights: Weights | None = None,
) -> Outcome:
    """Evaluate, unlearn in place, evaluate again. `rows` has the sets forget and retain, and what else the suite has.

    `known` holds records that were made already: "before", of the model as it comes, and "retrained", of the model that
    `run.evaluation` names. What it lacks is read from `folder`, or made and written there. The start model scores the
    answers made afterwards: from its `weights` where they were kept, else loaded again by its name.
    """
    exact_matmul()
    suite = suite or replace(rows_suite({}), evaluated_sets=tuple(rows))
    start()
    if will_shard():
        adapt(model, run)  # before the weights are sharded
    network = TokenModel(model)
    place_model(network)
    records = (
        dict(known) if known is not None else before_training(network, tokenizer, rows, run, suite, progress, folder=folder)
    )
    importance, steps, monitor = change(network, tokenizer, rows, run, progress, folder=folder, before=records["before"])
    more = {"importance": importance, "start": _start_after(network, run, progress, folder, weights)}
    records["after"] = read_or_evaluate(
        folder, "after", lambda path: predict(network, tokenizer, rows, run, suite, progress, cache_path=path, **more)
    )
    results = results_of(run, model, rows, make_encoder(tokenizer, run.data), suite, records, steps)
    results["suite"]["judge"] = judge_of(run).name
    notes = nothing_forgotten(records["before"]["forget"], records["after"]["forget"], run.train)
    for when in ("before", "after"):
        notes = [*notes, *answer_notes(records[when], run.evaluation.new_tokens, f"{when.capitalize()} training: ")]
    results |= {"ended": monitor.ended, "notes": [*monitor.notes, *notes]}
    results |= lacking_coherence(records["after"])
    scorer = importance.scorer if isinstance(importance, LearnedImportance) else None
    return Outcome(model=model, scorer=scorer, results=results, records=records, steps=tuple(steps))


def _start_after(
    trained: TokenModel, run: Run, progress: Progress, folder: Path | None, weights: Weights | None
) -> StartModel | None:
    """How to come by the start model once `trained` has been changed; None where nothing was kept of it."""
    if run.evaluation.start is None and weights is not None:
        return partial(with_weights, trained, weights)
    if run.evaluation.start is None and folder is None:  # a model from Python may have no name that it can be loaded by
        return None
    return partial(loaded_if_there, trained, run.evaluation.start or run.model, run, progress.phase)


def change(
    model: TokenModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Encoded]],
    run: Run,
    progress: Progress = Progress(),
    *,
    folder: Path | None = None,
    before: Mapping[str, Sequence[Record]] | None = None,
) -> tuple[Importance, list[Step], TrainingMonitor]:
    """The unlearning alone, in place: what `unlearn` does between its evaluations."""
    accelerator = start()
    if not will_shard():
        place_model(model)
        adapt(model.lm, run)
    torch.manual_seed(run.seed)
    encoder = make_encoder(tokenizer, run.data)
    rows = {name: list(r) for name, r in with_reasoning(model, encoder, rows, run.evaluation, progress.evaluated)[0].items()}
    with training_only(model, run.train.only):
        monitor = TrainingMonitor(run.guard, run.train, model, rows, encoder, batch=run.evaluation.batch)
    says = {"phase": progress.phase, "on_step": progress.step}
    answers = {r.id: r.generated for r in (before or {}).get("retain", ())}
    importance, steps = train_method(
        model, rows, run, encoder, accelerator, **says, folder=folder, monitor=monitor, answers=answers
    )
    for note in monitor.notes:
        progress.phase(note)
    merge_adapters(model.lm)  # what is evaluated is what is saved
    require_finite(model.lm, Diverged, "the last step; lower train.lr or train.gamma")
    return importance, steps, monitor
