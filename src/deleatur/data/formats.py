"""Kinds of files: the rows of each, as pairs of a place and a value."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from deleatur.data.messages import redact_value, refusal, show_all, show_columns
from deleatur.errors import why

INDEX = re.compile(r"(Unnamed: \d+(\.\d+)*)?")  # what pandas calls its row numbers in a CSV file
INDEX_COLUMN = re.compile(r"__index_level_\d+__")  # and in a Parquet file
SEPARATOR = re.compile("sep=(.)\r?\n")  # the line that names Excel's delimiter


def counted(rows: Iterable[object]) -> Iterable[tuple[str, object]]:
    """Rows with their places, for a source that has no lines."""
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _jsonl(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    text = _decode(name, data)
    if re.match(r"\s*\[\s*\{", text):  # no row begins so: a list under the name of lines
        yield from _json(name, data)
        return
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would break rows that hold U+2028
        if line.strip():
            yield f"line {number}", _parse(name, line, number)


def _json(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    """A list of objects, an object that holds one, an object of columns or of rows by their ids, one row, or, as some data
    sets on the hub are named, an object a line."""
    text = _decode(name, data)
    first, _, rest = text.lstrip().partition("\n")
    if rest.strip() and first.rstrip().startswith("{") and first.rstrip().endswith("}"):
        return _jsonl(name, data)
    value = _parse(name, text)
    if isinstance(value, dict):
        value = _rows_in(name, value)
    if not isinstance(value, list):
        raise refusal(name, f"{redact_value(value)} is not a list of objects, which a .json file has to be")
    return counted(value)


def _rows_in(name: str, value: dict[str, Any]) -> list[Any]:
    """The rows of an object: those of the only list in it, those that pandas writes by column or by row, or itself."""
    lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
    turns = [k for k in lists if {"role", "from"} & value[k][0].keys()]  # one row, a conversation
    if len(lists) == 1 and not turns:
        return value[lists[0]]
    parts = list(value.values())
    if all(isinstance(part, dict) for part in parts) and len({tuple(part) for part in parts}) == 1:
        if not all(key.isdecimal() for key in parts[0]):
            return parts
        parts = [list(part.values()) for part in parts]
    if not lists and all(isinstance(part, list) for part in parts) and len({len(part) for part in parts}) == 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*parts, strict=True)]
    if not value or (lists and not turns):
        seen = f"an object that holds {len(lists)} lists of objects {show_all(lists)}".rstrip()
        raise refusal(name, f"{seen}; a list of objects is needed, or an object that holds exactly one")
    if len(value) > 1 and all(isinstance(part, str) and re.search(r"\s", key) for key, part in value.items()):
        return [[key, part] for key, part in value.items()]  # answers by their questions, refused as rows
    return [value]


def _csv(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    text = _decode(name, data)
    named = SEPARATOR.match(text)
    text = text[named.end() :] if named else text
    mark = named[1] if named else _delimiter(text)
    has_blank = re.search(rf'{re.escape(mark)} +"', text)  # before a quote, which would be part of the cell
    is_spaced = bool(has_blank) and _parts_all(text, mark, skipinitialspace=True)
    how: Any = {"strict": True, "delimiter": mark, "skipinitialspace": is_spaced}
    reader = csv.reader(io.StringIO(text, newline=""), **how)
    limit = csv.field_size_limit(2**31 - 1)
    try:
        head, *rows = [cells for cells in reader if any(map(str.strip, cells))] or [[]]  # Excel leaves rows without a text
    except csv.Error as e:
        needed = f"quote cells that hold quotes, {mark!r} or line breaks"
        raise refusal(f"{name}, line {reader.line_num}", f"broken CSV: {e}; {needed}") from e
    finally:
        csv.field_size_limit(limit)
    head, width = [column.strip() for column in head], len(head)
    indices = {k for k, column in enumerate(head) if INDEX.fullmatch(column) and all(_is_bare(r, k) for r in rows)}
    head = [column for k, column in enumerate(head) if k not in indices]
    if len({*head}) < len(head):
        raise refusal(name, f"two columns share a name among {show_columns(head)}; rename one")
    for number, cells in enumerate(rows, 1):
        if len(cells) != width:
            seen = f"{len(cells)} cells but {width} columns, split at {mark!r}"
            needed = "quote cells that hold it or line breaks, and use the same separator in heading and rows"
            raise refusal(f"{name}, row {number}", f"{seen}; {needed}")
        kept = [cell for k, cell in enumerate(cells) if k not in indices]
        yield f"row {number}", {column: cell or None for column, cell in zip(head, kept, strict=True)}


def _delimiter(text: str) -> str:
    """Of a comma, semicolon, tab and bar, in this order, the first that parts the rows as it parts the heading; else the
    first that parts the heading."""
    heading = text.lstrip().partition("\n")[0]
    marks = [mark for mark in ",;\t|" if mark in heading] or [","]
    return next((mark for mark in marks if _parts_all(text, mark)), marks[0])


def _parts_all(text: str, mark: str, **how: bool) -> bool:
    """Have the first rows as many cells as the heading, and do they end with their lines?"""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, **how)  # pyright: ignore[reportArgumentType]
        widths = {len(cells) for cells in islice(reader, 20) if cells}
    except csv.Error:
        return False
    return len(widths) == 1 and widths != {1}


def _is_bare(cells: list[str], column: int) -> bool:
    """Is there a row's number, or nothing, as under a mark too many?"""
    return column >= len(cells) or not cells[column] or cells[column].isdecimal()


def _parquet(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    try:
        from pyarrow import BufferReader, parquet  # slow to import, and few rows come from Parquet

        table = parquet.ParquetFile(BufferReader(data)).read()
        kept = [column for column in table.column_names if not INDEX_COLUMN.fullmatch(column)]
        return counted(table.select(kept).to_pylist())
    except Exception as e:  # pyarrow has errors of its own, and Python has some for the text inside
        raise refusal(name, f"broken Parquet ({why(e)}); write the file again") from e


READERS: dict[str, Callable[[str, bytes], Iterable[tuple[str, object]]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _decode(name: str, data: bytes) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data[:4] or data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise refusal(name, "it is not UTF-8, but seems to be UTF-16; save the file as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        line, byte = data.count(b"\n", 0, e.start) + 1, e.start - data.rfind(b"\n", 0, e.start)
        seen = f"byte {byte} of the line (0x{data[e.start]:02x}) is not UTF-8"
        raise refusal(f"{name}, line {line}", f"{seen}; save the file as UTF-8") from e


def _parse(name: str, text: str, line: int | None = None) -> object:
    """The JSON value of a whole file, or of its `line`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as e:
        is_extra = line is None and e.msg == "Extra data"
        needed = "for one object a line name the file .jsonl" if is_extra else "fix the line"
        place = f"{name}, line {(line or 1) + e.lineno - 1}"
        raise refusal(place, f"broken JSON at column {e.colno}: {e.msg}; {needed}") from e
    except (ValueError, RecursionError) as e:  # a key twice, a number of thousands of digits, brackets too deep
        place = f"{name}, line {line}" if line else name
        raise refusal(place, f"JSON that cannot be used: {e}; fix or drop it") from e


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has a key twice among {show_all([key for key, _ in pairs])}")
    return found
