"""A run folder's files as plain dicts, refused here where they are missing, broken or of another shape."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType, NoneType
from typing import Any

from deleatur.errors import DataError

SCHEMA_VERSION = 1
NUMBER = (int, float)
MAYBE = (int, float, NoneType)
# a type, a dict of shapes (`...` stands for every key), or a list of one shape
Shape = type | tuple[type, ...] | dict[str, Any] | dict[EllipsisType, Any] | list[Any]
SCORES: Shape = {...: {...: {"value": MAYBE, "n": int, "se": MAYBE}}}
RESULTS: Shape = {
    "before": SCORES,
    "after": SCORES,
    **dict.fromkeys(("fq", "rd", "uq"), MAYBE),
    "importance": {...: MAYBE},
    "cost": {...: MAYBE},
    "model": {"name": str},
    "data": {...: (dict, NoneType)},
    "run": {"loss": {"name": str}, "importance": {"name": str}},
}
# what results may hold beside: figures of several sets on each side, what was measured on what, a method's name
MORE: dict[str, Shape] = {
    "whole": {...: {...: {}}},
    "suite": {"gone": [str], "kept": [str], "score": str},
    "fq_raw": MAYBE,
    "rd_loss": MAYBE,
    "no_coherence": str,
    "ended": str,
    "notes": [str],
    "method": str,
    "seed": int,
}
STEP: Shape = {"step": int, **dict.fromkeys(("loss", "forget_nll", "retain_nll", "importance"), MAYBE)}
TOKEN: Shape = {"start": int, "end": int, "importance": NUMBER, "gold": (bool, NoneType)}
HEAT: Shape = {**dict.fromkeys(("id", "question", "answer", "before", "after"), str), "tokens": [TOKEN]}
RECORD: dict[str, Any] = dict.fromkeys(("set", "id", "question", "answer", "generated"), str)
TOLD: Shape = {"question": str, "answer": str, "tokens": [TOKEN]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """What the files of a run folder hold, each named after its file."""

    name: str
    results: dict[str, Any]
    steps: list[dict[str, Any]]
    importance: list[dict[str, Any]]
    before: list[dict[str, Any]]
    after: list[dict[str, Any]]


def read_folder(run: Path) -> Folder:
    """Read a run folder. Raises DataError where it is none, or where a file is missing or not of the known shape."""
    if not (run / "results.json").is_file():
        raise DataError(f"{run} is no run folder: it has no results.json; give a folder in which a run has ended")
    results = read_results(run / "results.json")
    return Folder(
        name=run.resolve().name,
        results=results,
        steps=read_steps(run),
        importance=list(read_lines(run / "importance.jsonl", HEAT, "importance.jsonl")),
        before=list(read_lines(run / "records/before.jsonl", RECORD, "records/before.jsonl")),
        after=list(read_lines(run / "records/after.jsonl", RECORD, "records/after.jsonl")),
    )


def require_no_links(run: Path) -> None:
    """Refuse to write into a folder, made by somebody else perhaps, whose files lead elsewhere."""
    if links := sorted(p for p in run.rglob("*") if p.is_symlink()):
        raise DataError(f"{links[0]} is a link, and what is written there would land elsewhere; put the file itself there")


def read_results(path: Path) -> dict[str, Any]:
    """A file of the form of `results.json`. Raises DataError where it is missing or not of the known shape."""
    results = _json(_text(path), str(path))
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema_version {version!r}, but this deleatur reads {SCHEMA_VERSION}; "
            "use the deleatur that wrote it, or run again"
        )
    require_shape(results, RESULTS, str(path))
    for key in MORE.keys() & results.keys():
        require_shape(results[key], MORE[key], f"{path} {key}")
    return results


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one object. Raises DataError where it is missing or broken."""
    found = _json(_text(path), str(path))
    require_shape(found, {}, str(path))
    return found


def read_steps(run: Path) -> list[dict[str, Any]]:
    """The steps that a run took. Raises DataError where a line is broken."""
    return list(read_lines(run / "steps.jsonl", STEP, "steps.jsonl"))


def read_importance(path: Path) -> list[dict[str, Any]]:
    """Answers with their tokens' importance, of a run or of other rows. Raises DataError where a line is broken."""
    return list(read_lines(path, TOLD, path.name))


def read_lines(path: Path, shape: Shape, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON Lines that goes by `name`. Raises DataError for a line that is not of the shape."""
    # not str.splitlines: it also cuts at U+2028 and its like, which JSON allows inside of strings
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            row = _json(line, f"{name}, line {number},")
            require_shape(row, shape, f"{name}, line {number},")
            yield row


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
        raise DataError(f"{where} is no JSON ({error}); it may have been cut off: run again to the end") from None


def require_shape(value: Any, shape: Shape, where: str) -> None:
    """Refuse what is not of the shape; keys that the shape does not name are let pass."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise DataError(f"{where} is {value!r:.60}, but must be an object")
        for key, inner in shape.items():
            if key is not ... and key not in value:
                raise DataError(f"{where} has no {key!r}; the file must come from a run of this deleatur")
            for name in value if key is ... else (key,):
                require_shape(value[name], inner, f"{where} {name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise DataError(f"{where} is {value!r:.60}, but must be a list")
        for number, item in enumerate(value, start=1):
            require_shape(item, shape[0], f"{where} {number}")
    elif not isinstance(value, shape):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        raise DataError(f"{where} is {value!r:.60}, but must be {' or '.join(k.__name__ for k in kinds)}")
