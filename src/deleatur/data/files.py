"""Where rows come from: a path, a name under a root, or the hub. Each row knows the place at which it stands."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deleatur.errors import DataError

HUB = re.compile(r"([^/:\s]+/[^/:\s]+)(?:/([^/:\s]+))?(?::(\S+))?")  # owner/name, /config, :split


class ValueRepr(reprlib.Repr):
    """Cut short enough for a line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlist, self.maxdict = 2, 80, 80, 3, 3


class RedactedRepr(ValueRepr):
    """Texts by their length alone: what is to be forgotten must not get into a log."""

    def repr_str(self, x: str, level: int) -> str:
        return f"‹{len(x)} characters›"


VALUE_REPR, REDACTED_REPR = ValueRepr(), RedactedRepr()


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row as it was read: where it stands, the id it gets where it names none, and its columns."""

    place: str
    name: str
    cells: Mapping[str, object]


def read(source: str, root: str | None) -> list[Row]:
    """The rows of a file, of all files in a folder, or of a data set under `root` or on the hub; at least one.

    A path that exists comes first, then the root, then the hub as `owner/name`, `owner/name:split` or
    `owner/name/config:split`. Raises DataError where there is nothing, or nothing that can be read.
    """
    try:
        path = _find(source, root)
        return _from_hub(source, root) if path is None else _from_path(path)
    except OSError as e:  # no permission, a name too long
        raise refusal(source, f"cannot be read ({_reason(e)}); check the path") from e


def read_either(local: str, hub: str, root: str | None) -> list[Row]:
    """The rows of the data set `local` under `root`, else of `hub` (named as for `read`); at least one, ids alike from both.

    Raises DataError, which names both, where neither gives rows.
    """
    try:
        if path := under(local, root):
            return _from_path(path)
    except (OSError, RuntimeError) as e:  # no permission, ~ without a home
        raise refusal(local, f"cannot be read under {root} ({_reason(e)}); check the path") from e
    looked = f"there is none under {root}" if root else "no folder is set by --data.root or $DELEATUR_DATA"
    return collect(hub, Path(local).name, counted(_load(hub, f"{local} or {hub}", looked)))


def under(local: str, root: str | None) -> Path | None:
    """The file or folder of that name under `root`, its suffix given or not; None where there is none."""
    places = [Path(root).expanduser() / f"{local}{suffix}" for suffix in ("", *READERS)] if root else []
    return next((place for place in places if place.exists()), None)


def collect(name: str, stem: str, found: Iterable[tuple[str, object]]) -> list[Row]:
    """Rows from pairs of a place in `name` and a value; ids count from `stem`-1.

    Raises DataError for a value that is no object of named columns, and where there is none.
    """
    rows: list[Row] = []
    for place, row in found:
        if not isinstance(row, Mapping) or not all(isinstance(column, str) for column in row):
            raise refusal(f"{name}, {place}", f"{redact_value(row)} is not a row; an object of named columns is needed")
        rows.append(Row(place=f"{name}, {place}", name=f"{stem}-{len(rows) + 1}", cells=row))
    if not rows:
        raise NoRows(printable(f"{name}: there are no rows; at least one is needed"))
    return rows


def counted(rows: Iterable[object]) -> Iterable[tuple[str, object]]:
    """Rows with their places, for a source that has no lines."""
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


class NoRows(DataError):
    """A source that is as it has to be, and empty."""


def refusal(place: str, what: str) -> DataError:
    """The error, on one line that any terminal can show, whatever stands in the user's text and file names."""
    return DataError(printable(f"{place}: {what}"))


def printable(text: str) -> str:
    """The text with all that a terminal would obey, and not show, written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show(value: object) -> str:
    """A name that the user gave, quoted for a message, at most some 80 characters of it."""
    return _repr(VALUE_REPR, value)


def redact_value(value: object) -> str:
    """What stands in a user's row, for a message: its texts are not shown."""
    return _repr(REDACTED_REPR, value)


def show_columns(names: Iterable[str], separator: str = ", ") -> str:
    """The first eight names of columns for a message. One with a blank may be a row's text, where a file has no heading."""
    shown = [redact_value(name) if re.search(r"\s", name) else show(name) for name in sorted(names)]
    return separator.join(shown[:8]) + (f"{separator}…" if len(shown) > 8 else "")


def _repr(way: reprlib.Repr, value: object) -> str:
    try:
        return way.repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"a huge {type(value).__name__}"


def show_all(values: Sequence[object], separator: str = ", ") -> str:
    """The first eight values for a message."""
    return separator.join(map(show, values[:8])) + (f"{separator}…" if len(values) > 8 else "")


def _reason(e: Exception) -> str:
    text = str(getattr(e, "strerror", None) or e)  # the whole of an OSError repeats the path
    return f"{type(e).__name__}: {' '.join(text.split())[:200]}"


def _find(source: str, root: str | None) -> Path | None:
    """The file or folder that is meant, None where only the hub is left."""
    anchored = source.startswith((".", "/", "~"))
    if not source:  # the empty path would be the current folder
        return None
    try:
        here = Path(source).expanduser()
        found = here if here.exists() else None if anchored else under(source, root)
    except (RuntimeError, ValueError) as e:  # what Python raises for ~ without a home
        raise refusal(source, f"there is no such home folder ({e}); write the path without ~") from e
    if found is None and (anchored or source.lower().endswith(tuple(READERS))):
        nor = f", nor under {root}" if root and not anchored else ""
        raise refusal(source, f"there is no file at {here}{nor}; check the path")
    return found


def _from_path(path: Path) -> list[Row]:
    kinds = ", ".join(READERS)
    if path.is_dir():
        inside = [p for p in path.iterdir() if p.suffix.lower() in READERS and p.is_file() and p.name[0] != "."]
        if not inside:
            raise refusal(str(path), f"the folder holds no rows; it needs a file that ends in {kinds}")
        return [row for p in sorted(inside) for row in _from_path(p)]
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise refusal(str(path), f"is no known kind of file; rows stand in one that ends in {kinds}")
    return collect(str(path), path.stem, reader(str(path), path.read_bytes()))


def _from_hub(source: str, root: str | None) -> list[Row]:
    looked = f"there is no file or folder of that name here{f', and none under {root}' if root else ''}"
    if not HUB.fullmatch(source):
        hint = "" if root else ", set --data.root or $DELEATUR_DATA"
        needed = f"give a path{hint}, or name a hub data set as owner/name, with /config and :split where it has them"
        raise refusal(source or "''", f"{looked}; {needed}")
    return collect(source, source, counted(_load(source, source, looked)))


def _load(hub: str, place: str, looked: str) -> list[object]:
    """The rows of a hub data set; a refusal says at which place and that `looked` came before."""
    owner_name, config, split = HUB.fullmatch(hub).groups()  # pyright: ignore[reportOptionalMemberAccess]
    try:
        from datasets import load_dataset  # slow to import, and most rows come from files

        return list(load_dataset(owner_name, config, split=split or "train"))
    except Exception as e:  # the hub, the network and the formats behind it each raise what they like
        raise refusal(place, f"{looked}, and the hub does not give it ({_reason(e)}); check the name") from e


def _jsonl(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    for number, line in enumerate(_decode(name, data).split("\n"), 1):  # splitlines would break rows that hold U+2028
        if line.strip():
            yield f"line {number}", _parse(name, line, number)


def _json(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    value = _parse(name, _decode(name, data))
    if isinstance(value, dict):
        lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(row, dict) for row in v)]
        if len(lists) != 1:
            seen = f"an object that holds {len(lists)} lists of objects {show_all(lists)}".rstrip()
            raise refusal(name, f"{seen}; a list of objects is needed, or an object that holds exactly one")
        value = value[lists[0]]
    if not isinstance(value, list):
        raise refusal(name, f"{redact_value(value)} is not a list of objects, which a .json file has to be")
    return counted(value)


def _csv(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    reader = csv.reader(io.StringIO(_decode(name, data), newline=""), strict=True)
    limit = csv.field_size_limit(2**31 - 1)
    try:
        head, *rows = [cells for cells in reader if cells] or [[]]
    except csv.Error as e:
        needed = "quote cells that hold quotes, commas or line breaks"
        raise refusal(f"{name}, line {reader.line_num}", f"broken CSV: {e}; {needed}") from e
    finally:
        csv.field_size_limit(limit)
    if len({*head}) < len(head):
        raise refusal(name, f"two columns share a name among {show_columns(head)}; rename one")
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(head):
            seen = f"{len(cells)} cells stand under {len(head)} columns"
            raise refusal(f"{name}, row {number}", f"{seen}; quote cells that hold commas or line breaks")
        yield f"row {number}", {column: cell or None for column, cell in zip(head, cells, strict=True)}


def _parquet(name: str, data: bytes) -> Iterable[tuple[str, object]]:
    try:
        from pyarrow import BufferReader, parquet  # slow to import, and few rows come from Parquet

        return counted(parquet.ParquetFile(BufferReader(data)).read().to_pylist())
    except Exception as e:  # pyarrow has errors of its own, and Python has some for the text inside
        raise refusal(name, f"broken Parquet ({_reason(e)}); write the file again") from e


READERS: dict[str, Callable[[str, bytes], Iterable[tuple[str, object]]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}


def _decode(name: str, data: bytes) -> str:
    data = data.removeprefix(codecs.BOM_UTF8)
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
        whole = line is None and e.msg == "Extra data"
        needed = "for one object a line name the file .jsonl" if whole else "mend the line"
        place = f"{name}, line {(line or 1) + e.lineno - 1}"
        raise refusal(place, f"broken JSON at column {e.colno}: {e.msg}; {needed}") from e
    except (ValueError, RecursionError) as e:  # a key twice, a number of thousands of digits, brackets too deep
        place = f"{name}, line {line}" if line else name
        raise refusal(place, f"JSON that cannot be used: {e}; mend or drop it") from e


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object has a key twice among {show_all([key for key, _ in pairs])}")
    return found
