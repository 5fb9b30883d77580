"""Methods side by side on one self-contained page, and the same table as Markdown, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deleatur.errors import ConfigError, DataError
from deleatur.report.compare import NO_METHOD, ComparedMethod, unequal
from deleatur.report.compare_audit import leaking
from deleatur.report.compare_columns import COLUMNS, cell
from deleatur.report.compare_figures import agreement, frontier
from deleatur.report.compare_forms import to_json, to_latex, to_markdown
from deleatur.report.compare_text import Table, compare_table, ordered
from deleatur.report.figures import courses
from deleatur.report.render import put, render
from deleatur.report.words import flat, plain

MAX_COURSES = 6  # of the best methods


def write_comparison(runs: Sequence[ComparedMethod], out: Path) -> Path:
    """table.md, table.tex, table.json and report.html in `out`; returns the page. The same runs give the same bytes.

    Raises ConfigError where `out` is a run's own folder, DataError where it cannot be written.
    """
    if (out / "results.json").exists():
        raise ConfigError(f"{out} is the folder of a run, whose report would be lost; give --out another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made: {error}; give --out another folder") from None
    table = compare_table(runs)
    put(out / "table.md", to_markdown(table))
    put(out / "table.tex", to_latex(table))
    put(out / "table.json", to_json(runs, table))
    return put(out / "report.html", render("compare.html.jinja", _view(ordered(runs), table)))


def _view(runs: Sequence[ComparedMethod], table: Table) -> dict[str, Any]:
    models = list(dict.fromkeys(r["model"]["name"] for run in runs if not run.peer for r in run.results))
    known = [{} if run.peer else flat(run.results[0]["run"]) for run in runs]
    settings = [{k: plain(v) for k, v in each.items() if k not in NO_METHOD} for each in known]
    names = list(dict.fromkeys(name for each in settings for name in each))
    values = {name: [each[name] for each in settings if name in each] for name in names}
    shared = {name: found[0] for name, found in values.items() if len(found) > 1 and len(set(found)) == 1}
    warnings = list(unequal(runs))
    return {
        "methods": len(runs),
        "count": sum(len(run.results) for run in runs),
        "models": models,
        "verdict": _verdict(runs),
        "warnings": warnings,
        "table": table,
        "notes": [note for note in table.notes if note not in warnings],
        "figures": [(c.title, c.caption, Markup(c.svg)) for c in (frontier(runs), agreement(runs)) if c],
        "courses": [(c.title, c.caption, Markup(c.svg)) for c in courses([(r.label, r.steps) for r in runs[:MAX_COURSES]])],
        "shared": list(shared.items()),
        "own": [
            (run, [(name, value) for name, value in each.items() if name not in shared and value != "none"])
            for run, each in zip(runs, settings, strict=True)
        ],
    }


def _verdict(runs: Sequence[ComparedMethod]) -> list[str]:
    """Who has the highest UQ, who comes next, and in whose models audits found leaks."""
    uq = COLUMNS[2]
    places: dict[str, list[tuple[str, str]]] = {}  # by the mean as it is written
    for run in runs:
        if (c := cell(run, uq)).mean is not None:
            places.setdefault(uq.text(c.mean, None), []).append((run.label, uq.text(c.mean, c.se)))
    if not places:
        return ["No method has a UQ: the score was not evaluated, or nothing was there to lose."]
    shown = [
        (_and([name for name, _ in tied]), len(tied) > 1, text if len(tied) > 1 else tied[0][1])
        for text, tied in list(places.items())[:2]
    ]
    (first, many, text), *rest = shown
    lines = [f"{first} {'share' if many else 'has'} the highest UQ: {text}."]
    lines += [f"Next {'come' if many else 'comes'} {names} with {text}." for names, many, text in rest]
    leaks = leaking(runs)
    return [*lines, *([f"By the audits, what was to be forgotten comes back from {_and(leaks)}."] if leaks else [])]


def _and(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
