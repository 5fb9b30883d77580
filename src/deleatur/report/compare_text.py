"""Methods as one table, the best first."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deleatur.report.compare import ComparedMethod, suite_of, unequal
from deleatur.report.compare_audit import audit_notes
from deleatur.report.compare_columns import COLUMNS, Cell, Column, cell, columns_of, set_metric_columns
from deleatur.report.tables import metric_name

SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Texts by row, the best method first; `best` are the (row, column) places of the best means."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    meanings: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def compare_table(runs: Sequence[ComparedMethod]) -> Table:
    """Methods by UQ, the highest first; means over seeds, ± one standard error where there are several.

    A column that no method has is left out. The best means are marked where the methods differ.
    """
    runs, columns = ordered(runs), columns_of(runs)
    cells = [[cell(run, column) for column in columns] for run in runs]
    footnotes: dict[str, int] = {}
    rows = []
    for run, line in zip(runs, cells, strict=True):
        texts = [_text(column, c, footnotes) for column, c in zip(columns, line, strict=True)]
        rows.append((run.label, str(len(run.seeds)), *texts))
    best = {(i, k + 2) for k, column in enumerate(columns) for i in _best(column, [line[k] for line in cells])}
    numbered = (f"{str(number).translate(SUPERSCRIPT)} {text}." for text, number in footnotes.items())
    return Table(
        columns=("method", "seeds", *(c.heading for c in columns)),
        rows=tuple(rows),
        best=frozenset(best),
        meanings=tuple((column.name, column.meaning) for column in columns),
        notes=(*unequal(runs), *_notes(runs), *numbered, *_left_out(runs)),
    )


def ordered(runs: Sequence[ComparedMethod]) -> list[ComparedMethod]:
    """By UQ, the highest first, those without last; else as given."""
    uq = {run.label: cell(run, COLUMNS[2]).mean for run in runs}
    return sorted(runs, key=lambda run: -math.inf if uq[run.label] is None else uq[run.label] or 0.0, reverse=True)


def _text(column: Column, c: Cell, footnotes: dict[str, int]) -> str:
    if not c.lacks:
        return column.text(c.mean or 0.0, c.se)
    if not c.reported:
        return "–"
    part = "" if c.mean is None else f"over {c.n} seeds only: " if c.n > 1 else "over 1 seed only: "
    mark = footnotes.setdefault(f"{column.name}: {part}{c.lacks}", len(footnotes) + 1)
    return ("–" if c.mean is None else column.text(c.mean, c.se)) + str(mark).translate(SUPERSCRIPT)


def _best(column: Column, cells: Sequence[Cell]) -> list[int]:
    """The rows whose mean, as it is written, is the best; none where all are alike."""
    texts = [None if c.mean is None else column.text(c.mean, None) for c in cells]
    means = [c.mean for c in cells if c.mean is not None]
    if not column.better or len({t for t in texts if t is not None}) < 2:
        return []
    wanted = column.text((min if column.better == "lower" else max)(means), None)
    return [i for i, text in enumerate(texts) if text == wanted]


def _notes(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """What the score is, whose token ids, what is not known, and what audits said."""
    for part in (_said, _layouts, _missing, audit_notes):
        yield from part(runs)


def _said(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """What the score is, once for every suite."""
    suites = [s for run in runs if not run.peer for s in map(suite_of, run.results)]
    for suite in {json.dumps(s, sort_keys=True): s for s in suites}.values():
        judge = f", judged by {suite['judge']}" if suite.get("judge") else ""
        forget, retain = ", ".join(suite["forget_sets"]), ", ".join(suite["retain_sets"])
        score = metric_name(suite["score"])
        yield f"{suite.get('name', 'rows')}: forget = {forget}; retain = {retain}; score = {score}{judge}."


def _layouts(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """Whose token ids are not our own."""
    for layout in dict.fromkeys(run.layout for run in runs if not run.peer and run.layout != "own"):
        yield f"Token ids in the layout of {layout}: {', '.join(run.label for run in runs if run.layout == layout)}."


def _missing(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """What is not known of peers' runs."""
    for run in runs:
        if run.peer:
            known = "nothing is known of its model, rows, judge and settings, and some definitions differ (docs/metrics.md)"
            yield f"{run.label}: as {run.peer}'s file has it, – where it has nothing; {known}."


def _left_out(runs: Sequence[ComparedMethod]) -> Iterator[str]:
    """Why requested set metrics have no column."""
    for column in set_metric_columns(runs):
        cells = [cell(run, column) for run in runs]
        if not any(c.n for c in cells):
            yield f"Left out, {column.name}: {cells[0].lacks}."
