"""Results of one attack in one setting on one arm: a JSON file each, written atomically and never recomputed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deleatur.errors import ConfigError, DataError
from deleatur.run_folder.schema import read_json, write_lines
from deleatur.run_folder.shapes import as_type, check_type
from deleatur.types import Example, Span

KEYS = {"retain_nll": "health"}  # of a file, where they differ from the fields of a cell
Value = float | tuple[float, ...] | None  # of a row: a number, several, or not evaluated


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A question with its answers. `row` is the place of the row whose fact it asks for."""

    row: int
    question: str
    answer: str  # that gives the fact away
    spans: tuple[tuple[int, int], ...]
    given: tuple[str, ...]  # answers of the model

    def example(self) -> Example:
        """The question as a row, for a judge."""
        spans = tuple(Span(start=a, end=b) for a, b in self.spans)
        return Example(id=str(self.row), prompt=(("user", self.question),), answer=self.answer, spans=spans)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Raw findings; they are judged later. `values` holds a number for each row, None where it was not evaluated."""

    attack: str
    arm: str
    setting: str
    answered: tuple[Answered, ...] = ()
    values: Mapping[str, tuple[Value, ...]] | None = None
    retain_nll: float | None = None  # NLL of retain rows afterwards, nats
    trained: tuple[float, float] | None = None  # NLL of the rows that were trained, before and after
    beside: bool = False  # for comparison only: not among the settings of which the largest counts
    seconds: float = 0.0


def path_of(folder: Path, attack: str, arm: str, setting: str) -> Path:
    """The file of a cell in an audit's folder."""
    return folder / "cells" / f"{attack}.{arm}.{setting}.json"


def write_cell(folder: Path, cell: Cell) -> None:
    """Write a cell to its path, atomically."""
    path = path_of(folder, cell.attack, cell.arm, cell.setting)
    path.parent.mkdir(exist_ok=True)
    write_lines(path, [{KEYS.get(name, name): value for name, value in asdict(cell).items()}])


def read_cell(path: Path) -> Cell:
    """Raises ConfigError where the file is none of an audit's."""
    try:
        found: Any = read_json(path, Cell)
        fields = {name: found.pop(key) for name, key in KEYS.items() if key in found} | found
        check_type(fields, Cell, str(path))
        return as_type(fields, Cell)
    except (DataError, TypeError) as e:
        raise ConfigError(f"{path} is not a result of an audit ({e}); remove it, then give the same command") from e
