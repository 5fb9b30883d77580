"""A model is evaluated on a session's rows: before, after, and a model trained without the forget rows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch

from deleatur.config.run_config import Run
from deleatur.data.spacing import evenly_spaced
from deleatur.distributed.processes import agree, count, fingerprints, is_first, is_sharded
from deleatur.errors import ConfigError
from deleatur.evaluation.answer_scores import scored_by_start
from deleatur.evaluation.batch_cache import BatchCache, clear
from deleatur.evaluation.judges import JudgeProtocol, make_judge
from deleatur.evaluation.predictions import NO_CACHE, Predictor
from deleatur.evaluation.reasoning import with_reasoning
from deleatur.evaluation.variants import variants
from deleatur.modeling.checks import check_known, check_room
from deleatur.modeling.loading import DTYPES
from deleatur.modeling.session import Session
from deleatur.modeling.start_model import StartModel, Weights, loaded_if_there, other_model, with_weights
from deleatur.modeling.token_model import TokenModel
from deleatur.protocols import Importance
from deleatur.run_folder.writer import Records, read_records, write_records
from deleatur.settings import Evaluation, Judge, Precision
from deleatur.types import Encoded, Suite

OWN_ROWS = 200  # of a set, where the user's rows are no suite


def rows_evaluated(suite: Suite, settings: Evaluation) -> int:
    """Most rows of a set that are evaluated."""
    return settings.rows or (OWN_ROWS if suite.name == "rows" else sys.maxsize)


def row_notes(session: Session, settings: Evaluation) -> list[str]:
    """Sentences where not all rows of a set are evaluated, and where token ids are not those of the chat template alone."""
    most, data = rows_evaluated(session.suite, settings), session.encoder.settings
    sizes = {name: len(session.rows[name]) for name in session.suite.evaluated_sets}
    cut = ", ".join(f"{most} of {size} {name} rows" for name, size in sizes.items() if size > most)
    notes = [*session.notes, *([f"Evaluated are {cut}, spread evenly (evaluation.rows)"] if cut else [])]
    notes += ["Token ids are OpenUnlearning's (data.layout)"] if data.layout == "open-unlearning" else []
    return notes + (["Every row without a system turn has that of data.system_prompt"] if data.system_prompt else [])


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluator:
    """Evaluates models on the rows of a session, all in the same way."""

    session: Session
    settings: Evaluation
    judge: JudgeProtocol | None  # of generated answers; None where the metric `revealed` is all
    name: str  # of the session's model before training
    precision: Precision  # in which other models are loaded

    def before(self) -> dict[str, Records]:
        """What is known before training: records "before", and "retrained" where the settings name such a model."""
        model, progress = self.session.model, self.session.progress
        for note in model.notes:
            progress.phase(note)
        made: dict[str, Records] = {}
        if other := self.settings.retrained:

            def evaluate(path: Path | None) -> Records:
                """Records of the retrained model."""
                progress.phase(f"Evaluating the model {other}")
                return self.predict(other_model(other, self.precision), cache_path=path)

            made["retrained"] = self.read_or_make("retrained", evaluate)

        def as_it_is(path: Path | None) -> Records:
            """Records of the model as it is now."""
            progress.phase("Evaluating the model as it is")
            return self.predict(model, cache_path=path, start=self._start_before())

        return made | {"before": self.read_or_make("before", as_it_is)}

    def read_or_make(self, name: str, make: Callable[[Path | None], Records]) -> Records:
        """The folder's records of this name; where it has none, they are made and written atomically."""
        folder = self.session.folder
        if folder is None:
            return make(None)
        path = folder / "records" / f"{name}.jsonl"
        found = read_records(path)
        if found is None:
            found = make(path)
            if is_first():
                write_records(path, found)
        if is_first():
            clear(path)
        return found

    def predict(
        self,
        model: TokenModel,
        *,
        importance: Importance | None = None,
        generate: bool = True,
        cache_path: Path | None = None,
        start: StartModel | None = None,
        scored: Records | None = None,
    ) -> Records:
        """Records of the suite's evaluated sets and their paraphrases.

        Finished batches are kept next to `cache_path`, the records' place, and not evaluated again. `start` gives the start
        model, which then scores the generated answers but for those that it has `scored` in records of before.
        """
        session, settings = self.session, self.settings
        check_room(model.lm, session.rows, self.name)
        if settings.grad_norm and is_sharded(model):
            raise ConfigError("evaluation.grad_norm needs unsharded weights; leave it out under FSDP2 or ZeRO-3")
        sets = self._sets()
        check_known(model.lm, sets, self.name)
        session.progress.phase(f"Evaluating the model: {sum(map(len, sets.values()))} rows, each once")
        cache = NO_CACHE
        if cache_path is not None:
            state = "own" if importance is None else importance.requires.hidden_state
            terms = (fingerprints(model.parameters()), state, asdict(settings), count())
            cache = BatchCache(cache_path, terms)
        predictor = Predictor(
            model=model,
            encoder=session.encoder,
            settings=settings,
            progress=session.progress.evaluated,
            batch_cache=cache,
        )
        with precision_of(model, settings.precision):
            if generate:
                sets, notes = with_reasoning(predictor, sets)
                for note in notes:
                    session.progress.phase(note)
            records = predictor.records(sets, importance=importance, generate=generate)
        if generate and start is not None:
            with start() as first:
                if first is not None:
                    with precision_of(first, settings.precision):
                        own = first is model and scored is None  # after training it may hold the start's weights meanwhile
                        scorer = replace(predictor, model=first)
                        records = scored_by_start(scorer, sets, records, scored, own=own)
        return self.judged(records) if generate else records

    def judged(self, records: Records) -> Records:
        """The records with the judge's verdicts, all made together."""
        judge = self.judge
        if judge is None:
            return records
        flat = [r for rows in records.values() for r in rows]
        self.session.progress.phase(f"Judging {len(flat)} answers: {judge.name}")
        verdicts = iter(agree(lambda: list(judge(flat))))  # one process for all
        return {name: [replace(r, judged=next(verdicts)) for r in rows] for name, rows in records.items()}

    def _sets(self) -> dict[str, Sequence[Encoded]]:
        suite, rows, most = self.session.suite, self.session.rows, rows_evaluated(self.session.suite, self.settings)
        return variants(
            self.session.encoder,
            {name: evenly_spaced(rows[name], most) for name in suite.evaluated_sets},
            shots=self.settings.shots,
            from_rows=rows.get("retain", ()),
            forget_sets=suite.forget_sets,
        )

    def _start_before(self) -> StartModel:
        """The start model of a model that was not trained: itself, or the one that the settings name."""
        model, name = self.session.model, self.settings.start
        if name is None:
            return lambda: contextlib.nullcontext(model)
        return partial(loaded_if_there, model, name, self.precision, self.session.progress.phase)

    def start_after(self, weights: Weights | None) -> StartModel | None:
        """How to come by the start model once the session's was changed: by its `weights` where they were kept, else by its
        name; None where a model from Python may have none."""
        session, name = self.session, self.settings.start
        if name is None and weights is not None:
            return partial(with_weights, session.model, weights)
        if name is None and session.folder is None:
            return None
        return partial(loaded_if_there, session.model, name or self.name, self.precision, session.progress.phase)


def make_evaluator(session: Session, run: Run) -> Evaluator:
    """The evaluation that the run's settings describe."""
    judge = None if run.judge.kind == "contained" else judge_of(run.judge, run.out)
    how = {"settings": run.evaluation, "judge": judge, "name": run.model, "precision": run.train.precision}
    return Evaluator(session=session, **how)


@cache
def judge_of(settings: Judge, folder: str | None) -> JudgeProtocol:
    """The judge of these settings, made once; its verdicts are kept in the folder."""
    return make_judge(settings, None if folder is None else Path(folder))


@contextlib.contextmanager
def precision_of(model: TokenModel, precision: Precision) -> Iterator[None]:
    """The evaluation's precision for a while: bf16 weights as fp32 and back, which loses nothing; fp32 under autocast.

    Raises ConfigError for bf16 weights that are sharded and are to be evaluated in fp32.
    """
    current, wanted = model.dtype, DTYPES[precision]
    if is_sharded(model) and current == torch.bfloat16 != wanted:
        raise ConfigError("under FSDP2 or ZeRO-3 bf16 weights are evaluated as they are; give --evaluation.precision bf16")
    with contextlib.nullcontext() if current == wanted else model.decoder.original_attention():
        if wanted == torch.bfloat16:
            with torch.autocast(model.device.type, dtype=wanted, enabled=current != wanted):
                yield
            return
        _cast(model, wanted)
        try:
            yield
        finally:
            _cast(model, current)


def _cast(model: TokenModel, dtype: torch.dtype) -> None:
    """Weights alone: buffers, such as the frequencies of rotary positions, are fp32 in a bf16 model and would be rounded."""
    for weight in [p for p in model.parameters() if p.is_floating_point() and p.dtype != dtype]:
        weight.data = weight.data.to(dtype)
    for module in model.modules():
        if "compute_dtype" in vars(module):  # NF4 weights stay; their products are the type's all the same
            vars(module)["compute_dtype"] = dtype  # their own setting, which the constructor takes
