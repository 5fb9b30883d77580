"""What one attack in one setting found on one arm: a JSON file each, written atomically, never made twice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deleatur.errors import ConfigError
from deleatur.io.atomic import write_atomic
from deleatur.types import Example, Span

Value = float | tuple[float, ...] | None  # of a row: a number, several, or not asked


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
    health: float | None = None  # NLL of retain rows afterwards, nats
    trained: tuple[float, float] | None = None  # NLL of the rows that were trained, before and after
    beside: bool = False  # for comparison only: not among the settings of which the largest counts
    seconds: float = 0.0


def path_of(folder: Path, attack: str, arm: str, setting: str) -> Path:
    """Path of a cell."""
    return folder / "cells" / f"{attack}.{arm}.{setting}.json"


def write_cell(folder: Path, cell: Cell) -> None:
    path = path_of(folder, cell.attack, cell.arm, cell.setting)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(asdict(cell), ensure_ascii=False) + "\n")


def read_cell(path: Path) -> Cell:
    """Raises ConfigError where the file is none of an audit's."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        answered = tuple(
            Answered(**a | {"spans": tuple((s, e) for s, e in a["spans"]), "given": tuple(a["given"])})
            for a in raw.pop("answered")
        )
        values = raw.pop("values")
        values = (
            None
            if values is None
            else {k: tuple(tuple(x) if isinstance(x, list) else x for x in v) for k, v in values.items()}
        )
        trained = raw.pop("trained")
        return Cell(**raw, answered=answered, values=values, trained=None if trained is None else (trained[0], trained[1]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise ConfigError(f"{path} is not a result of an audit ({e}); remove it, then use --resume") from e
