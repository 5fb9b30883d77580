"""Rows are read and a model is evaluated on them: before, after, and a model trained without the forget rows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.commands.start_model import StartModel, loaded_if_there, other_model
from deleatur.config.run_config import Run
from deleatur.data.batches import evenly
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.files import files_read
from deleatur.data.rows import read_rows, refuse_overlap, root_of
from deleatur.data.suites import read_suite
from deleatur.data.windows import windows
from deleatur.distributed.processes import agree, count, gather, is_first, is_sharded, part
from deleatur.errors import ConfigError, DeleaturError, ModelError
from deleatur.evaluation.answer_scores import scored_by_start
from deleatur.evaluation.batch_cache import BatchCache, clear
from deleatur.evaluation.judges import JudgeProtocol, make_judge
from deleatur.evaluation.predictions import NO_CACHE, record, variants
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.modeling.loading import DTYPES, load_tokenizer
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.run_folder.writer import Records, read_records, write_records
from deleatur.settings import Evaluation, Judge
from deleatur.training.monitor import sums
from deleatur.training.setup import state_of
from deleatur.types import AimsAtLevel, Encoded, Example, Importance, Prepares, Suite

# figures of a user's own rows: always, with holdout rows, and with a retrained model
WORST = ("j_w", "j_avg")
UNSEEN = ("mia_loss", "mia_min_k", "mia_min_k_plus", "mia_zlib", "mia_grad_norm", "specific_nll", "other_nll")
REASONING = "[the model's own reasoning]"  # where rows are shown and no model is loaded
RETRAINED = ("forget_quality", "privleak", "mia_reference")


def suite_of(run: Run) -> Suite:
    """The run's benchmark, or its own forget, retain and holdout rows as one; checked."""
    if run.suite is not None:
        suite = read_suite(run.suite, run.data)
    else:
        sources = {"forget": run.forget, "retain": run.retain, "holdout": run.holdout}
        suite = rows_suite({n: read_rows(source, settings=run.data) for n, source in sources.items() if source is not None})
        compared = RETRAINED if run.evaluation.retrained else ()
        suite = replace(suite, set_metrics=(*WORST, *(UNSEEN if run.holdout else ()), *compared))
    if {"forget", "retain"} <= suite.sets.keys():
        refuse_overlap(suite.sets["forget"], suite.sets["retain"])
    own = run.judge.kind != "contained" and suite.score == "revealed"
    return replace(suite, score="judged") if own else suite


def rows_suite(sets: Mapping[str, tuple[Example, ...]]) -> Suite:
    """A user's own rows: every set is evaluated."""
    return Suite(name="rows", sets=sets, evaluated_sets=tuple(sets), set_metrics=WORST)


def require_trained(suite: Suite) -> None:
    """Refuse a benchmark that has nothing to forget."""
    if missing := [name for name in ("forget", "retain") if name not in suite.sets]:
        raise ConfigError(
            f"the suite {suite.name} has no {missing[0]} rows; use it with deleatur evaluate --suite {suite.name}"
        )


def encode_sets(
    sets: Mapping[str, tuple[Example, ...]], tokenizer: PreTrainedTokenizerBase, run: Run
) -> dict[str, list[Encoded]]:
    """Every set's rows as token ids."""
    encoder = make_encoder(tokenizer, run.data)
    return {name: encode_all(encoder, windows(encoder, examples)) for name, examples in sets.items()}


def reading_notes(rows: Mapping[str, Sequence[Encoded]], run: Run) -> list[str]:
    """Sentences on what was read and is not trained or evaluated as a whole, and from which files."""
    notes = []
    sources = {"forget": run.forget, "retain": run.retain, "holdout": run.holdout}
    for name, encoded in rows.items():
        if files := files_read(sources.get(name), root_of(run.data)):
            read = f"The {len(encoded)} {name} rows are those of {', '.join(files)}"
            notes.append(f"{read}; give one of these files for its rows alone")
        if cut := [row for row in encoded if row.cut]:
            remedy = "" if any(row.example.prompt for row in cut) else "; --data.split makes windows of them"
            limit = f"data.max_length {run.data.max_length}"
            notes.append(
                f"{len(cut)} of {len(encoded)} {name} rows are longer than {limit} and are cut at the answer's end{remedy}"
            )
        earlier = sum(any(role == "assistant" for role, _ in row.example.prompt) for row in encoded)
        if earlier and run.data.turns == "last":
            seen = f"{earlier} of {len(encoded)} {name} rows hold earlier answers, which are context alone"
            notes.append(f"{seen}; --data.turns each makes a row of every answer")
    return notes


def encode_first(run: Run, count: int) -> tuple[dict[str, list[Encoded]], dict[str, int], PreTrainedTokenizerBase]:
    """The first rows of each set, the sizes of the sets, and the tokenizer; the model itself is not loaded."""
    sets, tokenizer = suite_of(run).sets, load_tokenizer(run.model)
    first = {name: rows[:count] for name, rows in sets.items()}
    if make_encoder(tokenizer, run.data).reasons:
        first = {name: tuple(replace(e, reasoning=REASONING) for e in rows) for name, rows in first.items()}
    return encode_sets(first, tokenizer, run), {name: len(rows) for name, rows in sets.items()}, tokenizer


def before_training(
    model: TokenModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Encoded]],
    run: Run,
    suite: Suite,
    progress: Progress,
    *,
    folder: Path | None = None,
) -> dict[str, Records]:
    """What is known before training: records "before", and "retrained" where the run names such a model."""
    made: dict[str, Records] = {}
    for note in model.notes:
        progress.phase(note)
    for name, other in (("retrained", run.evaluation.retrained), ("before", run.model)):
        if other is None:
            continue

        def evaluate(path: Path | None, name: str = name, other: str = other) -> Records:
            progress.phase(f"Evaluating the model {'as it is' if name == 'before' else other}")
            if name == "retrained":
                return predict(other_model(other, run), tokenizer, rows, run, suite, progress, cache_path=path)
            return predict(
                model, tokenizer, rows, run, suite, progress, cache_path=path, start=start_before(model, run, progress)
            )

        made[name] = read_or_evaluate(folder, name, evaluate)
    return made


def read_or_evaluate(folder: Path | None, name: str, evaluate: Callable[[Path | None], Records]) -> Records:
    """The folder's records of this name; where it has none, they are made and written atomically."""
    if folder is None:
        return evaluate(None)
    path = folder / "records" / f"{name}.jsonl"
    found = read_records(path)
    if found is None:
        found = evaluate(path)
        if is_first():
            write_records(path, found)
    if is_first():
        clear(path)
    return found


def start_before(model: TokenModel, run: Run, progress: Progress) -> StartModel:
    """The start model of a model that was not trained: itself, or the one that `run.evaluation.start` names."""
    if run.evaluation.start is None:
        return lambda: contextlib.nullcontext(model)
    return partial(loaded_if_there, model, run.evaluation.start, run, progress.phase)


def predict(
    model: TokenModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[str, list[Encoded]],
    run: Run,
    suite: Suite,
    progress: Progress,
    *,
    importance: Importance | None = None,
    generate: bool = True,
    cache_path: Path | None = None,
    start: StartModel | None = None,
) -> Records:
    """Records of the suite's evaluated sets and their paraphrases, by the run's evaluation settings.

    Finished batches are kept beside `cache_path`, the records' place, and not evaluated again. `start` gives the start
    model, which then scores the generated answers.
    """
    encoder = make_encoder(tokenizer, run.data)
    require_usable(model.lm, rows, run)
    if run.evaluation.grad_norm and is_sharded(model):
        raise ConfigError("evaluation.grad_norm needs whole weights; leave it out under FSDP2 or ZeRO-3")
    sets = variants(
        encoder,
        {name: evenly(rows[name], run.evaluation.rows) for name in suite.evaluated_sets},
        shots=run.evaluation.shots,
        from_rows=rows.get("retain", ()),
        forget_sets=suite.forget_sets,
    )
    progress.phase(f"Evaluating the model: {sum(map(len, sets.values()))} rows, each once")
    terms = () if cache_path is None else (sums(model.parameters()), state_of(run), asdict(run.evaluation), count())
    batch_cache = NO_CACHE if cache_path is None else BatchCache(cache_path, terms)
    with precision_of(model, run.evaluation):
        if generate:
            sets, notes = with_reasoning(model, encoder, sets, run.evaluation, progress.evaluated, batch_cache)
            for note in notes:
                progress.phase(note)
        records = record(
            model,
            encoder,
            sets,
            run.evaluation,
            importance=importance,
            state=state_of(run),
            progress=progress.evaluated,
            generate=generate,
            batch_cache=batch_cache,
        )
    if generate and start is not None:
        with start() as first, contextlib.nullcontext() if first is None else precision_of(first, run.evaluation):
            if first is not None:
                callbacks = {"progress": progress.evaluated, "batch_cache": batch_cache}
                records = scored_by_start(first, encoder, sets, records, run.evaluation, **callbacks)
    return judged(records, judge_of(run), progress) if generate and run.judge.kind != "contained" else records


@cache
def _judge(settings: Judge, folder: Path | None) -> JudgeProtocol:
    return make_judge(settings, folder)


def judge_of(run: Run) -> JudgeProtocol:
    """The run's judge, made once; its verdicts are kept in the run's folder."""
    return _judge(run.judge, None if run.out is None else Path(run.out))


def judged(records: Records, judge: JudgeProtocol, progress: Progress) -> Records:
    """The records with the judge's verdicts, all made together."""
    flat = [r for rows in records.values() for r in rows]
    progress.phase(f"Judging {len(flat)} answers: {judge.name}")
    verdicts = iter(agree(lambda: list(judge(flat))))  # one process for all
    return {name: [replace(r, judged=next(verdicts)) for r in rows] for name, rows in records.items()}


def require_usable(model: PreTrainedModel, rows: dict[str, list[Encoded]], run: Run) -> None:
    """Refuse a model with broken weights, rows longer than it can read, and a wish to stop at rows that are not there."""
    if (
        isinstance(run.loss, AimsAtLevel)
        and run.loss.level is None
        and not (rows.get("holdout") or isinstance(run.importance, Prepares))
    ):
        raise ConfigError("loss.level is unknown: give holdout rows, a level in nats, or an importance that selects tokens")
    require_finite(model, ModelError, f"the model {run.model}; use an intact copy")
    room = getattr(model.config, "max_position_embeddings", None) or math.inf
    longest = max(len(row.ids) for encoded in rows.values() for row in encoded)
    if longest > room:
        raise ModelError(f"a row has {longest} tokens and {run.model} reads {room}; set data.max_length to {room} or less")


def require_finite(model: PreTrainedModel, error: type[DeleaturError], where: str) -> None:
    """Refuse a model with a weight that is no number: its outputs would mean nothing."""
    mine = [name for name, weight in model.named_parameters() if not bool(part(weight).isfinite().all())]
    for name in (name for found in gather(mine) for name in found):
        raise error(f"{name} holds a weight that is not finite, in {where}")


@contextlib.contextmanager
def precision_of(model: TokenModel, settings: Evaluation) -> Iterator[None]:
    """The evaluation's precision for a while: bf16 weights as fp32 and back, which loses nothing; fp32 under autocast.

    Raises ConfigError for bf16 weights that are sharded and are to be evaluated in fp32.
    """
    own, wanted = model.dtype, DTYPES[settings.precision]
    if is_sharded(model) and own == torch.bfloat16 != wanted:
        raise ConfigError("under FSDP2 or ZeRO-3 bf16 weights are evaluated as they are; give --evaluation.precision bf16")
    with contextlib.nullcontext() if own == wanted else model.own_attention():
        if wanted == torch.bfloat16:
            with torch.autocast(model.device.type, dtype=wanted, enabled=own != wanted):
                yield
            return
        _cast(model, wanted)
        try:
            yield
        finally:
            _cast(model, own)


def _cast(model: TokenModel, dtype: torch.dtype) -> None:
    """Weights alone: buffers, such as the frequencies of rotary positions, are fp32 in a bf16 model and would be rounded."""
    for weight in [p for p in model.parameters() if p.is_floating_point() and p.dtype != dtype]:
        weight.data = weight.data.to(dtype)
    for module in model.modules():
        if "compute_dtype" in vars(module):  # NF4 weights stay; their products are the type's all the same
            vars(module)["compute_dtype"] = dtype
