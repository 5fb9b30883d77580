"""Where rows come from: a path, a name under a root, or the hub. Each row knows the place at which it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deleatur.data.formats import READERS
from deleatur.data.formats import counted as counted
from deleatur.data.messages import printable as printable
from deleatur.data.messages import redact_value, refusal, show_all
from deleatur.data.messages import show as show
from deleatur.data.messages import show_columns as show_columns
from deleatur.errors import DataError, why

HUB = re.compile(r"([^/:\s]+/[^/:\s]+)(?:/([^/:\s]+))?(?::(\S+))?")  # owner/name, /config, :split
SAVED = ("state.json", "dataset_dict.json")  # what Dataset.save_to_disk and DatasetDict.save_to_disk leave
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json")  # of data sets, not rows


class NoRows(DataError):
    """A source without rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row as it was read: where it stands, the id it gets where it names none, its columns, and where those that the
    settings name were taken from."""

    place: str
    name: str
    cells: Mapping[str, object]
    paths: Mapping[str, str] = field(default_factory=dict)


def read(source: str, root: str | None) -> list[Row]:
    """The rows of a file, of all files in a folder, or of a data set under `root` or on the hub; at least one.

    A path that exists comes first, then the root, then the hub as `owner/name`, `owner/name:split` or
    `owner/name/config:split`. Raises DataError where there is nothing, or nothing that can be read.
    """
    try:
        path = _find(source, root)
        return _from_hub(source, root) if path is None else _from_path(path)
    except OSError as e:  # no permission, a name too long
        raise refusal(source, f"cannot be read ({why(e)}); check the path") from e


def read_either(local: str, hub: str, root: str | None) -> list[Row]:
    """The rows of the data set `local` under `root`, else of `hub` (named as for `read`); at least one, ids alike from both.

    Raises DataError, which names both, where neither gives rows.
    """
    try:
        if path := under(local, root) or _laid_out_as_hub(hub, root):
            return _from_path(path)
    except (OSError, RuntimeError) as e:  # no permission, ~ without a home
        raise refusal(local, f"cannot be read under {root} ({why(e)}); check the path") from e
    searched = f"there is none under {root}" if root else "no folder is set by --data.root or $DELEATUR_DATA"
    return collect(hub, Path(local).name, counted(_load(hub, f"{local} or {hub}", searched)))


def under(local: str, root: str | None) -> Path | None:
    """The file or folder of that name under `root`, its suffix given or not; None where there is none."""
    places = [Path(root).expanduser() / f"{local}{suffix}" for suffix in ("", *READERS)] if root else []
    return next((place for place in places if place.exists()), None)


def _hub_parts(hub: str) -> tuple[str, str | None, str | None]:
    """owner/name, config and split of `owner/name/config:split`; None for the last two where they are left out."""
    found = HUB.fullmatch(hub)
    return (hub, None, None) if found is None else (found[1], found[2], found[3])


def _laid_out_as_hub(hub: str, root: str | None) -> Path | None:
    """The file of `owner/name/config:split` in a copy of the hub's folder under `root`; None where there is none."""
    owner_name, config, split = _hub_parts(hub)
    folder = Path(root).expanduser() / owner_name if root else None
    if folder is None or not folder.is_dir():
        return None
    config, split = config or "default", split or "train"
    stems = (f"{config}/{split}", f"{config}/{split}-*", f"data/{split}-*", f"data/{split}", config, f"data/{config}", split)
    found = (p for stem in stems for suffix in READERS for p in sorted(folder.glob(f"{stem}{suffix}")))
    return next(found, None)


def check_are_rows(name: str, rows: object) -> None:
    """Raise DataError for what is given from Python and cannot be gone through row by row."""
    if isinstance(rows, str | Mapping) or not isinstance(rows, Iterable) or type(rows).__name__ == "DataFrame":
        needed = 'give a list of objects or a Dataset: of a DataFrame to_dict("records"), of a DatasetDict one split'
        raise refusal(name, f"a {type(rows).__name__} is no list of rows; {needed}, of a file what load_dataset reads")


def collect(name: str, stem: str, found: Iterable[tuple[str, object]]) -> list[Row]:
    """Rows from pairs of a place in `name` and a value; ids count from `stem`-1.

    Raises DataError for a value that is no object of named columns, and where there is none.
    """
    rows: list[Row] = []
    for place, row in found:
        if not isinstance(row, Mapping) or not all(isinstance(column, str) for column in row):
            needed = 'an object of named columns is needed, such as {"question": "…", "answer": "…"}'
            raise refusal(f"{name}, {place}", f"{redact_value(row)} is not a row; {needed}")
        rows.append(Row(place=f"{name}, {place}", name=f"{stem}-{len(rows) + 1}", cells=row))
    if not rows:
        raise NoRows(str(refusal(name, "there are no rows; at least one is needed")))
    return rows


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
        if any((path / name).is_file() for name in SAVED):
            return _saved(path)
        if inside := files_in(path):
            if twice := [p.name for p in inside if sum(p.stem == q.stem for q in inside) > 1]:
                raise refusal(
                    str(path), f"the folder holds {show_all(twice)}, whose rows would be one; give one of these files"
                )
            return [row for p in inside for row in _from_path(p)]
        deeper = sorted({p.parent.relative_to(path).as_posix() for p in path.rglob("*") if _holds_rows(p)})
        if deeper:
            raise refusal(str(path), f"the folder holds rows in {show_all(deeper)} only; give one of these folders")
        raise refusal(str(path), f"the folder holds no rows; it needs a file that ends in {kinds}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        text = '; a text is a row of a .jsonl file, {"text": "…"}' if path.suffix.lower() in (".txt", ".md") else ""
        raise refusal(str(path), f"is not a known kind of file; rows are read from files that end in {kinds}{text}")
    return collect(str(path), path.stem, reader(str(path), path.read_bytes()))


def files_in(folder: Path) -> list[Path]:
    """The files of a folder that are read as rows, by name."""
    return sorted(p for p in folder.iterdir() if _holds_rows(p))


def files_read(source: str | None, root: str | None) -> tuple[str, ...]:
    """The names of the files that a folder was read from; empty for whatever is no folder of files."""
    path = _find(source, root) if source else None
    if path is None or not path.is_dir() or any((path / name).is_file() for name in SAVED):
        return ()
    return tuple(p.name for p in files_in(path))


def _holds_rows(path: Path) -> bool:
    return path.suffix.lower() in READERS and path.is_file() and path.name[0] != "." and path.name not in DESCRIPTIONS


def _saved(folder: Path) -> list[Row]:
    """The rows of a folder that `Dataset.save_to_disk` wrote."""
    from datasets import Dataset, load_from_disk  # slow to import, and most rows come from files

    try:
        found = load_from_disk(str(folder))
    except Exception as e:  # datasets and pyarrow raise what they like
        raise refusal(str(folder), f"a saved data set that cannot be read ({why(e)}); save it again") from e
    if not isinstance(found, Dataset):
        if len(found) != 1:
            first = next(iter(found), "")
            seen = f"the saved data set has the splits {show_all(list(found))}"
            raise refusal(str(folder), f"{seen}; give the folder of one, such as {folder / str(first)}")
        (found,) = found.values()
    return collect(str(folder), folder.resolve().name, counted(list(found)))


def _from_hub(source: str, root: str | None) -> list[Row]:
    searched = f"there is no file or folder of that name here{f', and none under {root}' if root else ''}"
    if not HUB.fullmatch(source):
        hint = "" if root else ", set --data.root or $DELEATUR_DATA"
        needed = f"give a path{hint}, or name a hub data set as owner/name, with /config and :split where it has them"
        raise refusal(source or "''", f"{searched}; {needed}")
    return collect(source, source, counted(_load(source, source, searched)))


def _load(hub: str, place: str, searched: str) -> list[object]:
    """The rows of a hub data set; a refusal names the place, and where it was looked for before."""
    owner_name, config, split = _hub_parts(hub)
    try:
        from datasets import load_dataset  # slow to import, and most rows come from files

        return list(load_dataset(owner_name, config, split=split or "train"))
    except Exception as e:  # the hub, the network and the formats behind it each raise what they like
        raise refusal(place, f"{searched}, and the hub does not give it ({why(e)}); check the name") from e
