"""The only module that knows every stage: rows → examples → before → unlearning → after → run folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.commands.evaluator import judge_of, make_evaluator, row_notes
from deleatur.commands.inputs import encode_sets, reading_notes, require_trained, require_usable, rows_suite, suite_of
from deleatur.commands.retain_rows import keep_rows, lacks_retain, require_subject, with_own_retain
from deleatur.config.recipes import RECIPES, require_recipe
from deleatur.config.run_config import Run, to_yaml
from deleatur.data.encode import make_encoder
from deleatur.data.rows import refuse_overlap, rows_from
from deleatur.distributed.processes import agree, gather, is_first, start, will_shard
from deleatur.errors import DeleaturError, Diverged, ModelError, resume_hint
from deleatur.evaluation.aggregate import answer_notes, lacking_coherence
from deleatur.io.atomic import write_atomic
from deleatur.io.lock import folder_lock
from deleatur.modeling.adapters import plain_model
from deleatur.modeling.dry_run import gathering_trial, gguf_notes, try_merging, try_saving
from deleatur.modeling.loading import load
from deleatur.modeling.patches import disable_dropout, exact_matmul, matmul_precision_restored
from deleatur.modeling.session import Session
from deleatur.modeling.start_model import StartModel, Weights, loaded_if_there, weights_of, with_weights
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.protocols import HasScorer
from deleatur.report import write_report
from deleatur.run_folder.schema import RunResults, read_results
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
from deleatur.training.monitor import nothing_forgotten
from deleatur.training.setup import require_parts
from deleatur.training.train import place, train
from deleatur.types import Example


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
    run = replace(run, out=str(out))
    session = _session(run, progress, out)
    if lacks_retain(run):
        session = with_own_retain(session, run)
    tokenizer = session.encoder.tokenizer
    with claimed(out, lambda: _claim(run, out, resume), resume=resume):
        if lacks_retain(run):
            keep_rows(session, out)
        require_same_rows(out, session.rows)
        progress.phase(to_yaml(run).rstrip())
        for note in (*reading_notes(session.rows, run), *gguf_notes(session.model.lm, tokenizer, run.model)):
            progress.phase(note)
        with resume_hint(f"deleatur forget {out} --resume"):
            outcome = unlearn(replace(session, progress=_logged(progress, out)), run)
            progress.phase("Writing the run folder")
            write_outcome(outcome, tokenizer, out)
            gather(None)  # a barrier: all files are there before anybody reads
            return finish(out)


def _session(run: Run, progress: Progress, out: Path) -> Session:
    """The model and rows of a run, every input checked."""
    suite = suite_of(run)
    require_trained(suite)
    if lacks_retain(run):
        require_subject(run, suite.sets["forget"])
    judge_of(run)  # is it there?
    exact_matmul()
    model, tokenizer = load(run.model, precision=run.train.precision, bits=run.lora.bits)
    rows = encode_sets(suite.sets, tokenizer, run)
    require_usable(model, rows, run)
    network = TokenModel(model).prepare()
    require_parts(network, run)
    require_space(model, out, run)
    try_ending(model, tokenizer, run)
    _place(network, run)
    encoder = make_encoder(tokenizer, run.data)
    return Session(model=network, encoder=encoder, suite=suite, rows=rows, progress=progress, folder=out)


def try_ending(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, run: Run) -> None:
    """What is done with the model after the last step, tried on small parts of it; nothing is saved without a tokenizer."""
    failed: list[DeleaturError] = []

    def attempt() -> str | None:
        try:
            if run.lora.rank is not None:
                try_merging(model, run.lora, run.model)
            if tokenizer is not None:
                try_saving(model, tokenizer, run.model)
        except DeleaturError as e:
            failed.append(e)
            return str(e)
        return None

    if reason := agree(attempt):  # the first process alone saves, and all of them end where it cannot
        raise failed[0] if failed else ModelError(reason)


def _place(network: TokenModel, run: Run) -> None:
    """On its device; where its weights are shared out over processes, some are gathered at once as saving will do."""
    trial = gathering_trial(network.lm, run.model) if will_shard() else None
    place(network, run)
    if trial is not None:
        trial()


def _claim(run: Run, out: Path, resume: bool) -> None:
    """The folder is this run's; from here on it can be resumed."""
    unfinished_folder(run) if resume else require_empty(out)  # another run may have been quicker
    if not resume:
        write_atomic(out / "run.yaml", to_yaml(run))


def _logged(progress: Progress, out: Path) -> Progress:
    """The progress, with each step in the folder's log as well."""

    def log_step(step: Step, steps: int) -> None:
        if is_first():
            with (out / "steps.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(asdict(step)) + "\n")
        progress.step(step, steps)

    return replace(progress, step=log_step)


def finish(out: Path) -> Path:
    """What is left to do once there are results; returns the folder. Raises Diverged where they are of a run rolled back."""
    if is_first():
        write_report(out)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)  # the run is complete without them
    results = read_results(out / "results.json")
    if results.get("ended") == "rolled back":
        raise Diverged(
            f"{results.get('notes', ['rolled back'])[0].rstrip('.')}; the model of that step and its report are in {out}"
        )
    return out


def forget(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Iterable[Mapping[str, object]],
    retain: Iterable[Mapping[str, object]] | None = None,
    holdout: Iterable[Mapping[str, object]] | None = None,
    recipe: str = "atwu",
    progress: Progress = Progress(),
    **settings: Any,
) -> Outcome:
    """Unlearn rows from a loaded model, in place: `deleatur forget` from Python. Nothing is written.

    A copy of the weights stays in the processor's memory, for a last look at the answers by the model before training;
    under FSDP2 or ZeRO-3 that look is left out.

    Args:
        model: A causal language model; it is changed in place. The adapters of a PeftModel are merged first, and the
            whole is trained: the outcome's model is a plain one.
        tokenizer: The model's tokenizer; its chat template is used where it has one.
        forget: Rows to forget, as dicts or a data set, in any form that files may have.
        retain: Rows to keep, likewise; none may be a forget row too. Without them, rows are made from the model's own
            answers to the forget questions about others and to everyday prompts.
        holdout: Rows that the model never saw, evaluated for comparison.
        recipe: Name of a method in `RECIPES`.
        progress: Callbacks for phases and steps.
        **settings: Fields of `Run` in place of the recipe's: seed, subject, loss, importance, data, lora, train, guard,
            evaluation, judge.

    Returns:
        The model, the scorer where the importance is learned, `results` (as in results.json), the records made
        before and after, and the steps. A training that was rolled back is no error: `results["ended"]` says so.

    Raises:
        DataError, ConfigError, ModelError: A row, a setting or the model cannot be used; checked before training.
        Diverged: A weight is not finite after the last step.
    """
    require_recipe(recipe)
    model = plain_model(model)
    run = RECIPES[recipe].run(
        model=str(model.name_or_path or type(model).__name__),
        forget="rows",
        retain=None if retain is None else "rows",
        **settings,
    )
    require(run.lora.bits is None, "lora.bits", run.lora.bits, "left out: the model is loaded; load it in 4 bits yourself")
    given = {"forget": forget, "retain": retain, "holdout": holdout}
    sets = rows_of({name: rows for name, rows in given.items() if rows is not None}, run)
    require_subject(run, sets["forget"])
    encoded = encode_sets(sets, tokenizer, run)
    require_usable(model, encoded, run)
    start()
    with matmul_precision_restored():
        exact_matmul()
        try_ending(model, None, run)
        network = TokenModel(disable_dropout(model)).prepare()
        kept = None if will_shard() else weights_of(network.lm)
        _place(network, run)
        encoder = make_encoder(tokenizer, run.data)
        session = Session(model=network, encoder=encoder, suite=rows_suite(sets), rows=encoded, progress=progress)
        outcome = unlearn(with_own_retain(session, run) if retain is None else session, run, weights=kept)
        network.undo()  # the user's model has its own forward again
        return outcome


def rows_of(given: Mapping[str, Iterable[Mapping[str, object]]], run: Run) -> dict[str, tuple[Example, ...]]:
    """Rows that were handed over, checked."""
    sets = {name: rows_from(rows, name=name, settings=run.data) for name, rows in given.items()}
    refuse_overlap(sets["forget"], sets.get("retain", ()))
    return sets


def unlearn(
    session: Session, run: Run, *, known: Mapping[str, Records] | None = None, weights: Weights | None = None
) -> Outcome:
    """Evaluate, unlearn in place, evaluate again. The session's rows have the sets forget and retain.

    `known` holds records that were made already: "before", of the model as it comes, and "retrained", of the model that
    `run.evaluation` names. What it lacks is read from the session's folder, or made and written there. The start model
    scores the answers made afterwards: from its `weights` where they were kept, else loaded again by its name.
    """
    evaluator = make_evaluator(session, run)
    records = dict(evaluator.before() if known is None else known)
    kept = [*session.rows["retain"], *session.rows.get("held", ())]
    in_training = replace(session, rows={**session.rows, "retain": kept})
    trained = train(in_training, run, {r.id: r.generated for r in records["before"].get("retain", ())})
    how = {"importance": trained.importance, "start": _start_after(session, run, weights)}
    records["after"] = evaluator.read_or_make("after", lambda path: evaluator.predict(session.model, cache_path=path, **how))
    results = results_of(run, session, records, trained.steps, judge_of(run).name)
    notes = nothing_forgotten(records["before"]["forget"], records["after"]["forget"], run.train)
    for when in ("before", "after"):
        notes = [*notes, *answer_notes(records[when], run.evaluation.new_tokens, f"{when.capitalize()} training: ")]
    notes = [*trained.notes, *notes, *row_notes(session, run.evaluation)]
    ending = {"ended": trained.ended, "notes": notes, **lacking_coherence(records["after"])}
    scorer = trained.importance.scorer if isinstance(trained.importance, HasScorer) else None
    return Outcome(
        model=session.model.lm,
        scorer=scorer,
        results=cast(RunResults, {**results, **ending}),
        records=records,
        steps=tuple(trained.steps),
    )


def _start_after(session: Session, run: Run, weights: Weights | None) -> StartModel | None:
    """How to come by the start model once the session's was changed; None where nothing was kept of it."""
    if run.evaluation.start is None and weights is not None:
        return partial(with_weights, session.model, weights)
    if run.evaluation.start is None and session.folder is None:  # a model from Python may have no name to load it by
        return None
    name, phase = run.evaluation.start or run.model, session.progress.phase
    return partial(loaded_if_there, session.model, name, run.train.precision, phase)
