"""What a model knows of the rows of deletion requests, by the evaluation that runs have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from deleatur.commands.evaluator import OWN_ROWS, make_evaluator
from deleatur.commands.inputs import check_usable, rows_suite
from deleatur.config.run_config import Run, values_of
from deleatur.data.encode import encode_all, make_encoder
from deleatur.data.rows import read_rows
from deleatur.data.windows import windows
from deleatur.distributed.processes import place_model, start
from deleatur.errors import DataError
from deleatur.evaluation.aggregate import measure
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.run_folder.file_types import Measured, Request
from deleatur.run_folder.ledger import check_rows, is_known, short
from deleatur.run_folder.writer import Records, digest_rows
from deleatur.settings import Data, Evaluation
from deleatur.types import Encoded, Example, Record

FORGET, PARAPHRASED = "forget", "forget_paraphrased"
GIVEN_AWAY = 0.5  # share of a fact's pieces from which on an answer gives it away


class Checked(TypedDict):
    """A request, what a model knows of its rows, and whether that is called known."""

    request: Request
    now: Measured
    known: bool


def changed_data(data: Data) -> dict[str, Any]:
    """The settings that are not the default, as the ledger has them."""
    default = values_of(Data())
    changed = {name: value for name, value in values_of(data).items() if value != default[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def data_of(request: Request) -> Data:
    """The reverse of `changed_data`. Raises DataError for settings that this version does not know."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in request["data"].items()}
    try:
        return Data(**values)
    except TypeError as e:
        seen = f"request {short(request)} has settings of its rows that this version does not know ({e})"
        raise DataError(f"{seen}; use the deleatur that wrote them, or correct `data` in its line of the ledger") from e


def rows_of(request: Request, ledger: Path) -> tuple[Example, ...]:
    """The request's rows, unchanged since it was added."""
    settings = data_of(request)
    path = check_rows(request, ledger, lambda path: digest_rows(read_rows(_anchored(path), settings=settings)))
    return read_rows(_anchored(path), settings=settings)


def _anchored(path: Path) -> str:
    """A path that cannot be mistaken for a data set name."""
    return str(path) if path.is_absolute() else f"./{path}"


def recheck(
    model: str, requests: Sequence[Request], ledger: Path, settings: Evaluation, progress: Progress
) -> tuple[list[Checked], dict[str, Records]]:
    """Evaluate a model on the rows of requests: what it knows of each, and the records by hash.

    Raises DataError where rows are not there or have changed, before the model is loaded.
    """
    rows = {r["sha256"]: rows_of(r, ledger) for r in requests}
    start()
    exact_matmul()
    lm, tokenizer = load(model, precision=settings.precision)
    network = TokenModel(lm).prepare()
    place_model(network)
    found: dict[str, Records] = {}
    for request in requests:
        name, data = request["sha256"], data_of(request)
        run = Run(model=model, forget="rows", retain="rows", data=data, evaluation=settings)
        encoder, suite = make_encoder(tokenizer, data), rows_suite({FORGET: rows[name]})
        encoded = {FORGET: encode_all(encoder, windows(encoder, rows[name]))}
        check_usable(lm, encoded, model)
        progress.phase(f"Request {short(request)}")
        run = replace(run, evaluation=asking_all(settings, encoded[FORGET]))
        session = Session(model=network, encoder=encoder, suite=suite, rows=encoded, progress=progress)
        found[name] = make_evaluator(session, run).predict(network)
    measured = [(r, measured_of(found[r["sha256"]])) for r in requests]
    return [Checked(request=r, now=now, known=is_known(r, now)) for r, now in measured], found


def asking_all(settings: Evaluation, rows: Sequence[Encoded]) -> Evaluation:
    """The settings, but every one of the rows is evaluated, with room for its right answer."""
    longest = max((len(row.offsets) for row in rows if row.example.prompt), default=0)
    return replace(settings, rows=max(settings.rows or OWN_ROWS, len(rows)), new_tokens=max(settings.new_tokens, longest))


def measured_of(records: Mapping[str, Sequence[Record]]) -> Measured:
    """How much a model's records show it to know of forget rows."""
    figures = measure(records)

    def score(name: str) -> float | None:
        """A set's share of revealed facts, or its probability where none has words to look for."""
        metrics = figures.get(name, {})
        figure = next((metrics[m] for m in ("revealed", "probability") if m in metrics), None)
        return None if figure is None else figure["value"]

    return Measured(revealed=score(FORGET), paraphrased=score(PARAPHRASED), nll=_nll(records[FORGET]))


def _nll(records: Sequence[Record]) -> float | None:
    """Mean NLL of marked tokens, of all where none is marked, nats a token."""
    marked = any(any(r.gold or ()) for r in records)
    values = [-p for r in records for p, gold in zip(r.logp, r.gold or (not marked,) * len(r.logp), strict=True) if gold]
    return sum(values) / len(values) if values else None


def held_rows(
    checked: Sequence[Checked], found: Mapping[str, Records], rows: Mapping[str, Sequence[Example]]
) -> Iterator[dict[str, Any]]:
    """Each row of the requests with what the model answers to it; rows are left out that it answers with nothing, or whose
    fact the answer gives away."""
    for check in checked:
        sha = check["request"]["sha256"]
        answers = {r.id: r.generated for r in found[sha][FORGET] if (revealed(r) or 0.0) < GIVEN_AWAY}
        for example in rows[sha]:
            answer = answers.get(example.id, "").strip()
            if answer and example.prompt:
                turns = [{"role": role, "content": text} for role, text in (*example.prompt, ("assistant", answer))]
                yield {"id": f"{sha[:8]}-{example.id}", "subject": example.subject, "messages": turns}


def has_rows(held: Path) -> bool:
    """Does the file of held rows have any? Raises DataError where it is missing."""
    if not held.exists():
        raise DataError(f"{held} is missing, so that earlier requests cannot be held; restore it")
    return held.stat().st_size > 0
