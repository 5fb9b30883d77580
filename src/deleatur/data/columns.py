"""Columns by other names: `question=prompt answer=data.reply` takes them, also nested ones and elements of lists."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from deleatur.data.files import Row, refusal, show, show_columns

QUESTIONS = ("question", "query", "prompt", "instruction", "input", "problem", "user", "human", "title", "q")
ANSWERS = (
    "answer",
    "answers",
    "response",
    "output",
    "completion",
    "reply",
    "target",
    "solution",
    "chosen",
    "gt",
    "label",
    "a",
)


def renamed(rows: Sequence[Row], columns: Iterable[str], known: Collection[str]) -> list[Row]:
    """The rows with columns taken by `name=path` pairs, dots leading into objects and lists; the others that have a known
    name and were not taken stay, and the rest is dropped.

    Rows that have the known names already stay as they are. Raises DataError for a name that no form has and for a path
    that leads nowhere.
    """
    pairs = [(name, path) for name, _, path in (pair.partition("=") for pair in columns)]
    if not pairs:
        return list(rows)
    for name, _ in pairs:
        if name not in known:
            raise refusal("data.columns", f"{show(name)} is no column; there are {', '.join(sorted(known))}")
    return [_renamed(row, pairs, known) for row in rows]


def _renamed(row: Row, pairs: Sequence[tuple[str, str]], known: Collection[str]) -> Row:
    taken = {head for _, path in pairs for head in (path, path.partition(".")[0])}
    missing = [path for _, path in pairs if not {path, path.partition(".")[0]} & row.cells.keys()]
    if missing and all(name in row.cells for name, _ in pairs):
        return row
    cells = {name: value for name, value in row.cells.items() if name in known and name not in taken}
    return replace(row, cells=cells | {name: _at(row, path) for name, path in pairs})


def _at(row: Row, path: str) -> object:
    """What stands at a path in the row; a text that is JSON, as in a CSV cell, is gone into too."""
    if path in row.cells:
        return row.cells[path]
    value: object = row.cells
    for part in path.split("."):
        if isinstance(value, str):
            with suppress(ValueError, RecursionError):
                value = json.loads(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list | tuple) and re.fullmatch(r"-?\d{1,9}", part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            there = (
                f"there are {show_columns(map(str, value))}"
                if isinstance(value, Mapping)
                else "it is no such object or list"
            )
            raise refusal(row.place, f"data.columns leads to {show(path)}, of which {show(part)} is not there; {there}")
    return value


def hint(cells: Mapping[str, object]) -> str:
    """How to say which column is the question and which the answer, by their own names where these can be guessed."""
    question, answer = (next((_path(n, cells[n]) for n in names if n in cells), None) for names in (QUESTIONS, ANSWERS))
    if question and answer:
        return f"--data.columns question={question} answer={answer} takes these two"
    return (
        "--data.columns question=… answer=… names the columns that are the two (a.b leads into an object, a.0 into a list)"
    )


def _path(name: str, value: object) -> str:
    """Where the first text below a column stands; the column itself where that is none."""
    path = name
    for _ in range(4):
        if isinstance(value, list | tuple) and value:
            path, value = f"{path}.0", value[0]
        elif isinstance(value, Mapping) and isinstance(value.get("text"), str | list):
            path, value = f"{path}.text", value["text"]
    return path if isinstance(value, str) else name
