"""All stages of a run: rows → examples → evaluation → unlearning → evaluation → run folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Unpack, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.commands.evaluator import judge_of, make_evaluator, row_notes
from deleatur.commands.inputs import (
    check_level,
    check_trained,
    check_usable,
    encode_sets,
    reading_notes,
    rows_suite,
    suite_of,
)
from deleatur.commands.retain_rows import check_subject, keep_rows, with_made_retain_rows
from deleatur.config.recipes import RECIPES, ForgetSettings, check_recipe
from deleatur.config.run_config import Run, to_yaml
from deleatur.data.encode import make_encoder
from deleatur.data.rows import refuse_overlap, rows_from
from deleatur.distributed.processes import agree, gather, is_first, start, will_shard
from deleatur.errors import Diverged, resume_hint
from deleatur.evaluation.aggregate import answer_notes, lacking_coherence
from deleatur.io.atomic import write_atomic
from deleatur.io.lock import folder_lock
from deleatur.modeling.adapters import plain_model
from deleatur.modeling.dry_run import gathering_trial, gguf_notes, try_ending
from deleatur.modeling.loading import load
from deleatur.modeling.patches import disable_dropout, exact_matmul, matmul_precision_restored
from deleatur.modeling.session import Session
from deleatur.modeling.start_model import Weights, weights_of
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress, Step
from deleatur.protocols import HasScorer
from deleatur.report import write_report
from deleatur.run_folder.file_types import RunResults
from deleatur.run_folder.schema import append_line, read_results
from deleatur.run_folder.writer import (
    Outcome,
    Records,
    check_empty,
    check_same_rows,
    check_space,
    claimed,
    free_folder,
    has_results,
    results_of,
    unfinished_folder,
    write_outcome,
)
from deleatur.settings import Data, require
from deleatur.training.monitor import nothing_forgotten
from deleatur.training.setup import check_parts
from deleatur.training.train import place, train
from deleatur.types import Example


def execute(run: Run, progress: Progress = Progress(), *, resume: bool = False) -> Path:
    """Carry out a run and fill its folder; returns the folder. Nothing is written before every input is checked.

    With `resume` the folder `run.out` is one that was interrupted: it resumes from the newest checkpoint, to the same bits.
    Raises Interrupted on SIGINT or SIGTERM.
    """
    start()
    out = Path(agree(lambda: str(unfinished_folder(Path(run.out or "")) if resume else free_folder(run))))
    if resume and has_results(out):
        with folder_lock(out) if is_first() else nullcontext():
            return finish(out)
    run = replace(run, out=str(out))
    session = _session(run, progress, out)
    if run.lacks_retain:
        session = with_made_retain_rows(session, run)
    tokenizer = session.encoder.tokenizer
    with claimed(out, lambda: _claim(run, out, resume), resume=resume):
        if run.lacks_retain:
            keep_rows(session, out)
        check_same_rows(out, session.rows)
        progress.phase(to_yaml(run).rstrip())
        for note in (
            *reading_notes(session.rows, run.sources, run.data),
            *gguf_notes(session.model.lm, tokenizer, run.model),
        ):
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
    check_trained(suite)
    if run.lacks_retain:
        check_subject(run.subject, suite.sets["forget"])
    judge_of(run.judge, run.out)  # is it there?
    exact_matmul()
    model, tokenizer = load(run.model, precision=run.train.precision, bits=run.lora.bits)
    rows = encode_sets(suite.sets, tokenizer, run.data)
    check_level(run.method, rows)
    check_usable(model, rows, run.model)
    network = TokenModel(model).prepare()
    check_parts(network, run.method)
    partly = run.lora.rank is not None or run.train.only is not None
    check_space(model, out, None if partly else run.keep)
    try_ending(model, tokenizer, run.lora, run.model)
    _place(network, run)
    encoder = make_encoder(tokenizer, run.data)
    return Session(model=network, encoder=encoder, suite=suite, rows=rows, progress=progress, folder=out)


def _place(network: TokenModel, run: Run) -> None:
    """On its device; where its weights are sharded over processes, a gathering as for saving is tried at once."""
    trial = gathering_trial(network.lm, run.model) if will_shard() else None
    place(network, run.lora, seed=run.seed, checkpointing=run.train.checkpointing)
    if trial is not None:
        trial()


def _claim(run: Run, out: Path, resume: bool) -> None:
    """The folder is this run's; from here on it can be resumed."""
    unfinished_folder(out) if resume else check_empty(out)  # another run may have been quicker
    if not resume:
        write_atomic(out / "run.yaml", to_yaml(run))


def _logged(progress: Progress, out: Path) -> Progress:
    """The progress, with each step in the folder's log as well."""

    def log_step(step: Step, steps: int) -> None:
        """Append the step to steps.jsonl, then report it."""
        if is_first():
            append_line(out / "steps.jsonl", asdict(step))
        progress.step(step, steps)

    return replace(progress, step=log_step)


def finish(out: Path) -> Path:
    """Write the page and remove checkpoints; returns the folder. Raises Diverged if the run was rolled back."""
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
    **settings: Unpack[ForgetSettings],
) -> Outcome:
    """Unlearn rows from a loaded model, in place: `deleatur forget` from Python. Nothing is written.

    A copy of the weights stays in the processor's memory, for a last look at the answers by the model before training;
    under FSDP2 or ZeRO-3 that look is left out.

    Args:
        model: A causal language model; it is changed in place. The adapters of a PeftModel are merged first, and all
            weights are trained: the outcome's model is a plain one.
        tokenizer: The model's tokenizer; its chat template is used where it has one.
        forget: Rows to forget, as dicts or a data set, in any form that files may have.
        retain: Rows to keep, likewise; none may be a forget row too. Without them, rows are made from the model's own
            answers to the forget questions about others and to everyday prompts.
        holdout: Rows that the model never saw, evaluated for comparison.
        **settings: recipe, the name of a method in `RECIPES` (default: "atwu"); progress, callbacks for phases and steps;
            and fields of `Run` in place of the recipe's: seed, subject, loss, importance, data, lora, train, guard,
            evaluation, judge.

    Returns:
        The model, the scorer where the importance is learned, `results` (as in results.json), the records made
        before and after, and the steps. A training that was rolled back is not an error: `results["ended"]` says so.

    Raises:
        DataError, ConfigError, ModelError: A row, a setting or the model cannot be used; checked before training.
        Diverged: A weight is not finite after the last step.

    Examples:
        >>> import deleatur
        >>> from deleatur.settings import Evaluation, Train
        >>> outcome = deleatur.forget(
        ...     model,
        ...     tokenizer,
        ...     forget=forget,
        ...     retain=retain,
        ...     recipe="npo",
        ...     train=Train(epochs=2, lr=1e-4),
        ...     evaluation=Evaluation(new_tokens=4),
        ... )
        >>> outcome.model is model, len(outcome.steps), sorted(outcome.records)
        (True, 2, ['after', 'before'])
    """
    recipe, progress = settings.pop("recipe", "atwu"), settings.pop("progress", Progress())
    check_recipe(recipe)
    run = RECIPES[recipe].run(
        model=str(getattr(model, "name_or_path", "") or type(model).__name__),
        forget="rows",
        retain=None if retain is None else "rows",
        **settings,
    )
    require(run.lora.bits is None, "lora.bits", run.lora.bits, "left out: the model is loaded; load it in 4 bits yourself")
    more = {name: rows for name, rows in (("retain", retain), ("holdout", holdout)) if rows is not None}
    sets = rows_of({"forget": forget, **more}, run.data)
    return _forget_rows(plain_model(model), tokenizer, sets, run, progress)


def _forget_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sets: Mapping[str, tuple[Example, ...]],
    run: Run,
    progress: Progress,
) -> Outcome:
    """Unlearn checked rows from a plain model."""
    check_subject(run.subject, sets["forget"])
    encoded = encode_sets(sets, tokenizer, run.data)
    check_level(run.method, encoded)
    check_usable(model, encoded, run.model)
    start()
    with matmul_precision_restored():
        exact_matmul()
        try_ending(model, None, run.lora, run.model)
        network = TokenModel(disable_dropout(model)).prepare()
        kept = None if will_shard() else weights_of(network.lm)
        _place(network, run)
        encoder = make_encoder(tokenizer, run.data)
        session = Session(model=network, encoder=encoder, suite=rows_suite(sets), rows=encoded, progress=progress)
        outcome = unlearn(with_made_retain_rows(session, run) if run.lacks_retain else session, run, weights=kept)
        network.undo()  # the user's model has its own forward again
        return outcome


def rows_of(given: Mapping[str, Iterable[Mapping[str, object]]], data: Data) -> dict[str, tuple[Example, ...]]:
    """Rows given from Python, checked."""
    sets = {name: rows_from(rows, name=name, settings=data) for name, rows in given.items()}
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
    how = {"importance": trained.importance, "start": evaluator.start_after(weights), "scored": records["before"]}
    records["after"] = evaluator.read_or_make("after", lambda path: evaluator.predict(session.model, cache_path=path, **how))
    results = results_of(run, session, records, trained.steps, judge_of(run.judge, run.out).name)
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
