"""The one reader and the one writer of JSON files of ours, checked against `file_types`. Importing this imports no torch."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from deleatur.errors import DataError
from deleatur.io.atomic import write_atomic
from deleatur.run_folder.file_types import (
    AUDIT_SCHEMA_VERSION,
    SCHEMA_VERSION,
    AnswerImportance,
    EvaluationResults,
    ImportanceLine,
    RecordLine,
    RowHashes,
    RunResults,
    StepLine,
)
from deleatur.run_folder.shapes import check_type

T = TypeVar("T")


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


def is_unversioned(path: Path, found: object) -> bool:
    """Is it what `deleatur evaluate --out` of 0.1 wrote: figures alone, without a version, the settings in a file beside?"""
    wrote = isinstance(found, dict) and found.keys() == {"sets", "whole", "judge"}
    return wrote and (path.parent / "evaluate.yaml").is_file()


def _unversioned_evaluation(figures: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same as version 1 had it."""
    run = yaml.safe_load(_text(folder / "evaluate.yaml"))
    sources = {name: {"source": run.get(name)} for name in ("forget", "retain", "holdout") if run.get(name)}
    beside = {"suite": {"gone": ["forget"], "kept": ["retain"], "score": "revealed"}, "model": {"name": run["model"]}}
    return {"schema_version": 1, **figures, **beside, "data": sources, "run": run, "notes": []}


def _audit_from_1(report: dict[str, Any]) -> dict[str, Any]:
    """Version 1 called what no attack covers `not_asked`."""
    return {"not_evaluated" if key == "not_asked" else key: value for key, value in report.items()} | {"schema_version": 2}


Upgrades = dict[int, Callable[[dict[str, Any]], dict[str, Any]]]
"""By the version that a file has: what makes it one of the next version."""

UPGRADES: Upgrades = {1: _from_1}
AUDIT_UPGRADES: Upgrades = {1: _audit_from_1}


def read_folder(run: Path) -> Folder:
    """Read a run folder. Raises DataError where it is none, or where a file is missing or not of the known shape."""
    if not (run / "results.json").is_file():
        raise DataError(f"{run} is not a run folder: it has no results.json; give a folder in which a run has ended")
    results = read_results(run / "results.json")
    if results.get("evaluation"):
        needed = "give a run's folder, or, for its figures, deleatur compare or deleatur report --form"
        raise DataError(f"{run} holds an evaluation, in which nothing was trained, so it has no model and no page; {needed}")
    return Folder(
        name=run.resolve().name,
        results=results,
        steps=read_steps(run),
        importance=list(read_lines(run / "importance.jsonl", ImportanceLine, "importance.jsonl")),
        before=list(read_lines(run / "records/before.jsonl", RecordLine, "records/before.jsonl")),
        after=list(read_lines(run / "records/after.jsonl", RecordLine, "records/after.jsonl")),
    )


def check_no_links(run: Path) -> None:
    """Refuse to write into a folder with links, which may point elsewhere."""
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
    results = _upgraded(path, UPGRADES, SCHEMA_VERSION, "run again")
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


def read_json(path: Path, kind: type[T]) -> T:
    """What `write_json` wrote. Raises DataError where the file is missing, broken, or holds something else."""
    value = _json(_text(path), str(path))
    check_type(value, kind, str(path))
    return cast(T, value)


def read_row_hashes(path: Path) -> RowHashes:
    """A data.json. Raises DataError as `read_json` does."""
    hashes = _json(_text(path), str(path))
    check_type(hashes, RowHashes, str(path))
    return hashes


def read_audit(path: Path, kind: type[T]) -> T:
    """An audit.json, as of this version. Raises DataError as `read_json` does, and where it is of a newer version."""
    report = _upgraded(path, AUDIT_UPGRADES, AUDIT_SCHEMA_VERSION, "audit again")
    check_type(report, kind, str(path))
    return cast(T, report)


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON Lines, UTF-8, atomically."""
    write_atomic(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def append_line(path: Path, row: Any) -> None:
    """One more line of a file that grows as work is done; a kill can cut it off."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_complete_lines(path: Path, kind: type[T]) -> list[T]:
    """The objects of such a file, down to a line that was cut off; none where there is no file. Raises DataError for a line
    that is not of the kind."""
    found: list[T] = []
    for number, line in enumerate(_text(path).split("\n") if path.exists() else (), start=1):
        try:
            row = json.loads(line) if line else None
        except ValueError:
            break
        if row is not None:
            check_type(row, kind, f"{path}, line {number},")
            found.append(row)
    return found


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


def _upgraded(path: Path, upgrades: Upgrades, newest: int, again: str) -> dict[str, Any]:
    """A JSON object in its newest version; `again` says what to do where it is of a version that is not known."""
    found = _json(_text(path), str(path))
    if is_unversioned(path, found):
        found = _unversioned_evaluation(found, path.parent)
    version = found.get("schema_version") if isinstance(found, dict) else None
    while isinstance(version, int) and version in upgrades:
        found = upgrades[version](found)
        version = found["schema_version"]
    if version != newest:
        raise DataError(
            f"{path} has schema_version {version!r}, but this deleatur reads {newest} and older; "
            f"use the deleatur that wrote it, or {again}"
        )
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_int=number_of)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not valid JSON ({error}); it may have been cut off: remove it, and run again to the end"
        ) from None
