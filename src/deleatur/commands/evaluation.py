"""Evaluation of a model that stays as it is: its figures, and a run's importance of other rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from deleatur.commands.evaluator import judge_of, make_evaluator, precision_of, row_notes
from deleatur.commands.inputs import check_usable, encode_sets, reading_notes, rows_suite, suite_of
from deleatur.config.run_config import Run, evaluation_to_yaml, read_run
from deleatur.data.encode import Encoder, make_encoder
from deleatur.data.rows import read_rows
from deleatur.distributed.processes import agree, count, is_first, place_model, start
from deleatur.errors import ConfigError, resume_hint
from deleatur.evaluation.aggregate import answer_notes, measure
from deleatur.evaluation.lm_eval_tasks import run_lm_eval
from deleatur.io.atomic import write_atomic
from deleatur.io.lock import folder_lock
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul, matmul_precision_restored
from deleatur.modeling.reference import start_of
from deleatur.modeling.session import Session
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.protocols import Learns, Prepares
from deleatur.run_folder.schema import check_no_links, read_current, write_json, write_lines
from deleatur.run_folder.writer import (
    check_empty,
    check_same_rows,
    claimed,
    evaluation_of,
    has_results,
    importance_lines,
    set_metrics_of,
)
from deleatur.types import Encoded, Suite

EVALUATION_FILE = "evaluate.yaml"  # and not run.yaml, so that no command resumes another's folder


def evaluate(
    run: Run,
    progress: Progress = Progress(),
    *,
    tasks: Sequence[str] = (),
    folder: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Evaluate the run's model on its rows; nothing is trained: `deleatur evaluate` from Python.

    Args:
        run: `model`, its rows or `suite`, `data`, `evaluation` and `judge` are read, the other fields are not.
        progress: Callbacks for phases.
        tasks: Names of lm-eval's tasks to run as well (extra `lm-eval`, one process only).
        folder: New folder for settings, records and figures; without one, nothing is written.
        resume: Go on in `folder` where an evaluation was interrupted; nothing is evaluated twice.

    Returns:
        `sets` (set → metric → `value`, `n`, `se`), `set_metrics` (name → figure, or what it `lacks`), the `judge`'s
        name, `notes`, what was evaluated (`model`, `data`, `suite`, `run`, its settings), and with tasks `lm_eval`.

    Raises:
        DataError, ConfigError, ModelError: A row, a setting, the model or the folder cannot be used.
        Interrupted: SIGINT or SIGTERM; the message says how to resume.

    Examples:
        >>> import deleatur
        >>> from deleatur.config import Run
        >>> from deleatur.settings import Evaluation
        >>> run = Run(model="tiny", forget="forget.jsonl", evaluation=Evaluation(new_tokens=4))
        >>> figures = deleatur.evaluate(run)
        >>> figures["sets"]["forget"]["probability"]["n"] == len(forget)
        True
    """
    again = "the same command, from its beginning" if folder is None else "the same command"
    with resume_hint(again), matmul_precision_restored():
        start()
        exact_matmul()
        if folder is None:
            return _figures(_session(run, tasks, progress), run, tasks)
        agree(lambda: check_no_links(folder) if resume else str(check_empty(folder)))
        if resume and has_results(folder):
            with folder_lock(folder) if is_first() else nullcontext():  # and what a kill at the very end left goes
                return read_current(folder / "results.json")
        run = replace(run, out=str(folder))
        session = replace(_session(run, tasks, progress), folder=folder)
        with claimed(folder, lambda: None if resume else _claim(run, tasks, folder), resume=resume):
            check_same_rows(folder, session.rows)
            with resume_hint(f"deleatur evaluate {folder} --resume"):
                found = _figures(session, run, tasks)
                if is_first():
                    write_json(folder / "results.json", found)
            return found


def _session(run: Run, tasks: Sequence[str], progress: Progress) -> Session:
    """The suite, model and rows of an evaluation; every input is checked."""
    suite = suite_of(run)
    if tasks and count() > 1:
        raise ConfigError("lm-eval's tasks run in one process; leave --tasks out, or the launcher")
    judge_of(run.judge, run.out)  # is it there?
    model, tokenizer = load(run.model, precision=run.evaluation.precision)
    rows = encode_sets(suite.sets, tokenizer, run.data)
    check_usable(model, rows, run.model)
    return _on_device(model, make_encoder(tokenizer, run.data), suite, rows, progress)


def _on_device(
    lm: PreTrainedModel, encoder: Encoder, suite: Suite, rows: dict[str, list[Encoded]], progress: Progress = Progress()
) -> Session:
    network = TokenModel(lm).prepare()
    place_model(network)
    return Session(model=network, encoder=encoder, suite=suite, rows=rows, progress=progress)


def _claim(run: Run, tasks: Sequence[str], folder: Path) -> None:
    """The folder is this evaluation's; from here on it can be resumed."""
    check_empty(folder)  # another may have been quicker
    write_atomic(folder / EVALUATION_FILE, evaluation_to_yaml(run, tasks))


def _figures(session: Session, run: Run, tasks: Sequence[str]) -> dict[str, Any]:
    model, suite = session.model, session.suite
    records = make_evaluator(session, run).before()
    with precision_of(model, run.evaluation.precision):
        lm_eval = {"lm_eval": run_lm_eval(model.lm, session.encoder.tokenizer, tasks, run.evaluation)} if tasks else {}
    sets, set_metrics = measure(records["before"], score=suite.score), set_metrics_of(suite, records, "before")
    notes = [
        *reading_notes(session.rows, run.sources, run.data),
        *row_notes(session, run.evaluation),
        *answer_notes(records["before"], run.evaluation.new_tokens),
    ]
    found = {"sets": sets, "set_metrics": set_metrics, "judge": judge_of(run.judge, run.out).name, "notes": notes}
    return evaluation_of(run, session) | found | lm_eval


def score(folder: Path, *, rows: str | None, model: str | None, progress: Progress = Progress()) -> Path:
    """Importance of every answer token of other rows, or by another model; the run's own is read from its folder."""
    if not (folder / "run.yaml").exists():
        raise ConfigError(f"{folder} has no run.yaml; give the folder of a run")
    if rows is None and model is None:
        if not (folder / "importance.jsonl").exists():
            raise ConfigError(f"{folder} has no importance.jsonl; the run did not finish")
        return folder / "importance.jsonl"
    run = read_run(folder)
    check_no_links(folder)
    suite = suite_of(run)
    examples = suite.sets["forget"] if rows is None else read_rows(rows, settings=run.data)
    lm, tokenizer = load(model or str(folder / "model"))
    encoder, encoded = make_encoder(tokenizer, run.data), encode_sets({"forget": examples}, tokenizer, run.data)
    session = _on_device(lm, encoder, rows_suite({"forget": examples}), encoded, progress)
    importance = run.importance
    if isinstance(importance, Learns):
        importance = importance.load(folder, session.model.width)
    elif isinstance(importance, Prepares):  # as it would have been made for these rows
        first = TokenModel(load(run.model)[0]).prepare()
        place_model(first)
        kept = encode_sets({"retain": suite.sets["retain"]}, tokenizer, run.data)
        passed = StartPass(first, batch=run.evaluation.batch)
        importance = importance.prepare(start_of(passed, encoded | kept, precision=run.train.precision))
    everything = replace(run, evaluation=replace(run.evaluation, rows=len(encoded["forget"])))
    records = make_evaluator(session, everything).predict(session.model, importance=importance)["forget"]
    path = folder / f"importance-{'forget' if rows is None else Path(rows).stem}.jsonl"
    write_lines(path, importance_lines(records, [None] * len(records)))
    return path
