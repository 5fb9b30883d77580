"""Columns by other names: `question=prompt answer=data.reply` takes them, also nested ones and elements of lists."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from deleatur.data.files import Row, refusal, show, show_columns
from deleatur.errors import DataError

ADD = "add {}=… for this file to --data.columns, which takes several for one name"
TEXTS = ("text", "content", "value")  # of an object, where its text is; the last two of a turn
QUESTIONS = ("question", "query", "prompt", "instruction", "input", "inputs", "problem", "user", "human", "title", "q")
ANSWERS = (
    "answer",
    "answers",
    "response",
    "output",
    "completion",
    "reply",
    "assistant",
    "target",
    "targets",
    "solution",
    "chosen",
    "gt",
    "label",
    "a",
)


def renamed(
    rows: Sequence[Row], columns: Iterable[str], known: Collection[str], forms: Mapping[tuple[str, ...], Collection[str]]
) -> list[Row]:
    """The rows with columns taken by `name=path` pairs, dots leading into objects and lists; the others that have a known
    name and were not taken stay, and the rest is dropped. Where the pairs make one of the `forms`, which come with what
    each may have beside it, columns of the other forms are dropped too.

    Of several pairs with one name a row takes the first whose column it has, so that files may differ. Rows that have none
    of the columns, nor one of nearly that name, and make one of the `forms` stay as they are. Raises DataError for a name
    that no form has, for a path that leads nowhere, and for rows that have neither.
    """
    pairs = [(name, path) for name, _, path in (pair.partition("=") for pair in columns)]
    if not pairs:
        return list(rows)
    for name, _ in pairs:
        if name not in known:
            raise refusal("data.columns", f"{show(name)} is not a column; there are {', '.join(sorted(known))}")
    made = {column for form in forms for column in form}
    return [_renamed(row, pairs, known, forms, made) for row in rows]


def _renamed(
    row: Row,
    pairs: Sequence[tuple[str, str]],
    known: Collection[str],
    forms: Mapping[tuple[str, ...], Collection[str]],
    made: Collection[str],
) -> Row:
    there = {name: [p for n, p in pairs if n == name and _head(row, p) is not None] for name, _ in pairs}
    if missing := [name for name, paths in there.items() if not paths and (name in made or _near(row, pairs, name))]:
        if any(row.cells.keys() >= {*form} for form in forms) and not any(_near(row, pairs, name) for name in missing):
            return row
        wanted = " nor ".join(show(path) for name, path in pairs if name == missing[0])
        seen = f"there is no column {wanted} for {missing[0]}; there are {show_columns(row.cells)}"
        raise refusal(row.place, f"{seen}; {ADD.format(missing[0])}")
    taken = {head for paths in there.values() for path in paths for head in (path, _head(row, path))}
    form = next((form for form in forms if all(there.get(name) for name in form)), None)
    fits = known if form is None else forms[form]
    cells = {name: value for name, value in row.cells.items() if name in fits and name not in taken}
    taken_from = {name: paths[0] for name, paths in there.items() if paths}
    return replace(row, cells=cells | {name: _first(row, name, there[name]) for name in taken_from}, paths=taken_from)


def _head(row: Row, path: str) -> str | None:
    """The column in which a path begins; None where the row has no such column."""
    return next((head for head in (path, path.partition(".")[0]) if head in row.cells), None)


def _near(row: Row, pairs: Sequence[tuple[str, str]], name: str) -> bool:
    """Has the row a column that could be meant by a path to a column that rows may lack?"""
    heads = [path.partition(".")[0] for n, path in pairs if n == name]
    return any(difflib.get_close_matches(head, list(row.cells), 1, 0.7) for head in heads)


def _first(row: Row, name: str, paths: Sequence[str]) -> object:
    """What stands at the first of the paths for a name that leads somewhere."""
    for path in paths[:-1]:
        with suppress(DataError):
            return _at(row, name, path)
    return _at(row, name, paths[-1])


def _at(row: Row, name: str, path: str) -> object:
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
                else "it is not such an object or list"
            )
            seen = f"data.columns leads to {show(path)}, of which {show(part)} is not there; {there}"
            raise refusal(row.place, f"{seen}; {ADD.format(name)}")
    return value


def hint(cells: Mapping[str, object], place: str) -> str:
    """How to say which column is the question and which the answer, by their own names where these can be guessed."""
    for column, value in cells.items():
        if _is_conversation(value):
            return f"--data.columns {shlex.quote(f'messages={column}')} takes this conversation"
    by_name = {re.sub(r"^\W+|\W+$", "", str(column).casefold()): column for column in reversed(list(cells))}
    question, answer = (
        next((found for n in names if n in by_name and (found := text_path(by_name[n], cells[by_name[n]]))), None)
        for names in (QUESTIONS, ANSWERS)
    )
    if question and answer:
        pairs = (shlex.quote(f"question={question}"), shlex.quote(f"answer={answer}"))
        return f"--data.columns {' '.join(pairs)} takes these two"
    more = ""
    if not (question or answer) and re.search(r"\.[ct]sv, ", place):
        more = "; where the file begins with a row, write a line of headings above it, such as question,answer"
    return (
        "--data.columns question=… answer=… names the columns that are the two (a.b leads into an object, a.0 into a list)"
        + more
    )


def _is_conversation(value: object) -> bool:
    """Are these the turns of two, one of them perhaps the answer?"""
    turns = value if isinstance(value, list | tuple) else ()
    roles = [turn.get("role", turn.get("from")) for turn in turns if isinstance(turn, Mapping)]
    return len({str(role) for role in roles if role not in (None, "system")}) > 1


def text_path(name: str, value: object) -> str | None:
    """Where the first text below a column stands; None where there is none, or a dot in the column's name hides it."""
    path = name
    for _ in range(4):
        if isinstance(value, list | tuple) and value:
            path, value = f"{path}.0", value[0]
        elif isinstance(value, Mapping) and (key := next((k for k in TEXTS if isinstance(value.get(k), str | list)), None)):
            path, value = f"{path}.{key}", value[key]
    return path if isinstance(value, str) and value.strip() and ("." not in name or path == name) else None
