"""What the files of a run folder hold, as typed dicts, with one reader and one writer. Importing this imports no torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from deleatur.errors import DataError
from deleatur.io.atomic import write_atomic
from deleatur.run_folder.shapes import check_type
from deleatur.settings import Precision

SCHEMA_VERSION = 2
AUDIT_SCHEMA_VERSION = 1  # of audit.json
T = TypeVar("T")


class Figure(TypedDict):
    """A mean over rows, or a set metric, which may hold more, or lack something."""

    value: float | None
    n: int
    se: float | None


Scores = dict[str, dict[str, Figure]]  # set → metric → figure


class SuiteResults(TypedDict):
    """What was measured on what."""

    name: NotRequired[str]
    forget_sets: list[str]
    retain_sets: list[str]
    score: str  # the metric that FQ and RD read
    judge: NotRequired[str]


# "class" is no name that a class body could have
ModelResults = TypedDict(
    "ModelResults",
    {"name": str, "class": NotRequired[str], "parameters": NotRequired[int], "precision": NotRequired[Precision]},
)
"""The model that was trained."""


class DataResults(TypedDict):
    """One set's rows."""

    source: NotRequired[str | None]
    sha256: NotRequired[str]
    rows: NotRequired[int]
    cut: NotRequired[int]
    tokens: NotRequired[int]


class NamedSettings(TypedDict):
    """A loss or an importance, with its settings."""

    name: str


class RunSettings(TypedDict):
    """The settings of the run, as in run.yaml."""

    loss: NamedSettings
    importance: NamedSettings


class RunResults(TypedDict):
    """results.json of a finished run."""

    schema_version: int
    before: Scores
    after: Scores
    fq: float | None
    rd: float | None
    uq: float | None
    importance: dict[str, float | None]
    cost: dict[str, Any]  # CPU seconds a step, memory and so on, by name
    model: ModelResults
    data: dict[str, DataResults | None]
    run: RunSettings
    set_metrics: NotRequired[dict[str, dict[str, dict[str, Any]]]]  # side → set metric → value, n and more, or lacks
    suite: NotRequired[SuiteResults]
    fq_raw: NotRequired[float | None]
    rd_loss: NotRequired[float | None]
    no_coherence: NotRequired[str]
    ended: NotRequired[str]
    notes: NotRequired[list[str]]
    method: NotRequired[str]
    seed: NotRequired[int]
    peer: NotRequired[str]  # whose file it was read from, where it is not ours
    audit: NotRequired[dict[str, Any]]  # of its model, where there is one: what audit.json holds
    evaluation: NotRequired[bool]  # was nothing trained, so that "after" is of the model as it is?


class EvaluationResults(TypedDict):
    """results.json of an evaluation."""

    schema_version: int
    sets: Scores
    set_metrics: dict[str, dict[str, Any]]
    judge: str
    notes: list[str]
    suite: SuiteResults
    model: ModelResults
    data: dict[str, DataResults | None]
    run: dict[str, Any]  # its settings, as in evaluate.yaml
    lm_eval: NotRequired[dict[str, Any]]


class StepLine(TypedDict):
    """A line of steps.jsonl."""

    step: int
    loss: float | None
    forget_nll: float | None
    retain_nll: float | None
    importance: float | None


class TokenImportance(TypedDict):
    """A token's characters in the answer, its importance, and whether it is marked."""

    start: int
    end: int
    importance: float
    gold: bool | None


class AnswerImportance(TypedDict):
    """A line of an importance file that `deleatur score` wrote."""

    question: str
    answer: str
    tokens: list[TokenImportance]


class ImportanceLine(AnswerImportance):
    """A line of importance.jsonl: with the model's answers before and after."""

    id: str
    before: str
    after: str


class RecordLine(TypedDict):
    """What every line of records/*.jsonl has; the other keys are the fields of `deleatur.types.Record`."""

    set: str
    id: str
    question: str
    answer: str
    generated: str


class FullRecordLine(RecordLine):
    """The same, with what only those who compute from it need."""

    logp: list[float]
    hit: list[bool]
    ends: bool
    spans: list[dict[str, Any]]
    offsets: list[list[int]]
    importance: NotRequired[list[float] | None]
    mean: NotRequired[list[float] | None]
    deviation: NotRequired[list[float] | None]
    restated: NotRequired[list[float] | None]
    wrong: NotRequired[list[list[float]]]
    gold: NotRequired[list[bool] | None]
    grad_norm: NotRequired[float | None]
    judged: NotRequired[float | None]
    start_nll: NotRequired[float | None]
    shuffled_nll: NotRequired[float | None]
    start_tokens: NotRequired[int | None]
    subject: NotRequired[str | None]
    restated_answer: NotRequired[str | None]
    wrong_answers: NotRequired[list[str]]
    reasoning: NotRequired[str | None]
    reasoning_cut: NotRequired[bool]
    cut: NotRequired[bool | None]


class TrialLine(TypedDict):
    """A line of a bench's trials.jsonl."""

    number: int
    values: dict[str, float]
    value: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """What the files of a run folder hold, each named after its file."""

    name: str
    results: RunResults
    steps: list[StepLine]
    importance: list[ImportanceLine]
    before: list[RecordLine]
    after: list[RecordLine]


def _from_1(results: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had other names for a suite's sets and for the set metrics."""
    names = {"gone": "forget_sets", "kept": "retain_sets", "whole": "set_metrics"}
    changed = {names.get(key, key): value for key, value in results.items()} | {"schema_version": 2}
    if isinstance(suite := results.get("suite"), dict):
        changed["suite"] = {names.get(key, key): value for key, value in suite.items()}
    return changed


UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""By the version that a results.json has: what makes it one of the next version."""


def read_folder(run: Path) -> Folder:
    """Read a run folder. Raises DataError where it is none, or where a file is missing or not of the known shape."""
    if not (run / "results.json").is_file():
        raise DataError(f"{run} is not a run folder: it has no results.json; give a folder in which a run has ended")
    results = read_results(run / "results.json")
    if results.get("evaluation"):
        needed = "give --form open-unlearning or lm-eval, or deleatur compare"
        raise DataError(f"{run} holds an evaluation, in which nothing was trained, so there is no page of a run; {needed}")
    return Folder(
        name=run.resolve().name,
        results=results,
        steps=read_steps(run),
        importance=list(read_lines(run / "importance.jsonl", ImportanceLine, "importance.jsonl")),
        before=list(read_lines(run / "records/before.jsonl", RecordLine, "records/before.jsonl")),
        after=list(read_lines(run / "records/after.jsonl", RecordLine, "records/after.jsonl")),
    )


def check_no_links(run: Path) -> None:
    """Refuse to write into a folder, made by somebody else perhaps, whose files lead elsewhere."""
    if links := sorted(p for p in run.rglob("*") if p.is_symlink()):
        raise DataError(f"{links[0]} is a link, and what is written there would land elsewhere; put the file itself there")


def read_results(path: Path) -> RunResults:
    """A file of the form of `results.json`, as of this version; an evaluation's in the form of a run's.

    Raises DataError where it is missing or of another form.
    """
    results = read_current(path)
    return as_results(cast(EvaluationResults, results)) if "sets" in results else cast(RunResults, results)


def read_current(path: Path) -> dict[str, Any]:
    """The same in its own form: `RunResults` or `EvaluationResults`."""
    results = _json(_text(path), str(path))
    version = results.get("schema_version") if isinstance(results, dict) else None
    while version in UPGRADES:
        results = UPGRADES[version](results)
        version = results["schema_version"]
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema_version {version!r}, but this deleatur reads {SCHEMA_VERSION} and older; "
            "use the deleatur that wrote it, or run again"
        )
    check_type(results, EvaluationResults if "sets" in results else RunResults, str(path))
    return results


def as_results(evaluation: EvaluationResults) -> RunResults:
    """An evaluation's figures in the form of a run's: those of its model stand in "after", and nothing was trained."""
    nothing = {"before": {}, "importance": {}, "cost": {}, "fq": None, "rd": None, "uq": None, "evaluation": True}
    kept = {key: value for key, value in evaluation.items() if key not in ("sets", "set_metrics", "judge")}
    suite = {**evaluation["suite"], "judge": evaluation["judge"]}
    figures = {"after": evaluation["sets"], "set_metrics": {"after": evaluation["set_metrics"]}, "suite": suite}
    return cast(RunResults, nothing | kept | figures)


def write_results(path: Path, results: RunResults) -> None:
    """The reverse of `read_results`, atomically."""
    write_json(path, results)


def write_json(path: Path, value: Any) -> None:
    """One indented JSON value, UTF-8, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote. Raises DataError where the file is missing or broken."""
    return _json(_text(path), str(path))


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON Lines, UTF-8, atomically."""
    write_atomic(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_steps(run: Path) -> list[StepLine]:
    """The steps that a run took. Raises DataError where a line is broken."""
    return list(read_lines(run / "steps.jsonl", StepLine, "steps.jsonl"))


def read_importance(path: Path) -> list[AnswerImportance]:
    """Answers with their tokens' importance, of a run or of other rows. Raises DataError where a line is broken."""
    return list(read_lines(path, AnswerImportance, path.name))


def read_lines(path: Path, kind: type[T], name: str) -> Iterator[T]:
    """The objects of a file of JSON Lines that goes by `name`. Raises DataError for a line that is not of the kind."""
    # not str.splitlines: it also cuts at U+2028 and its like, which JSON allows inside of strings
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            row = _json(line, f"{name}, line {number},")
            check_type(row, kind, f"{name}, line {number},")
            yield cast(T, row)


def number_of(digits: str) -> int | float:
    """A whole number in JSON, which beyond 64 bits other programs too read as a fraction; else none could add it up."""
    return int(digits) if len(digits) < 20 else float(digits)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} is missing; put it back, or run again to the end") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from None


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_int=number_of)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({error}); it may have been cut off: run again to the end") from None
