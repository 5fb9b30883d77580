"""One self-contained page from a run folder."""

import math
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from deleatur.data.spacing import evenly_spaced
from deleatur.report.answers import answer_groups, answered_rows, heated_rows, score_line
from deleatur.report.figures import charts
from deleatur.report.redact import redact
from deleatur.report.render import put, render
from deleatur.report.tables import METRIC_LABELS, Row, lacking, rows_of, set_metric_rows, set_name
from deleatur.report.verdict import verdict
from deleatur.report.words import cost, flat, grouped, plain
from deleatur.run_folder.schema import Folder, check_no_links, read_folder

MAX_HEAT_ROWS = 100
RETAIN_SAMPLES = 10
SCORES = (
    (
        "fq",
        "FQ",
        "How much of what was revealed on forget rows is gone, where answers are still coherent.",
        "100 · (F₀ − F) / F₀",
    ),
    (
        "rd",
        "RD",
        "How far what was revealed on retain rows went down or up.",
        "100 · |R₀ − R| / R₀",
    ),
    ("uq", "UQ", "The balance of both.", "harmonic mean of FQ and 100 − RD"),
)
BESIDE = {"fq_raw": "FQ with incoherent answers counted as forgotten", "rd_loss": "RD with gains left out"}
AGREEMENT = (
    ("roc_auc", "ROC-AUC", "How often a marked token has more importance than an unmarked one; 50 % is chance."),
    ("average_precision", "Average precision", "Precision over all thresholds; the share of marked tokens is chance."),
    ("precision_at_budget", "Precision at budget", "Share of marked tokens among those with the highest importance."),
)
COSTS = {
    "seconds_per_step": "time of a step",
    "cpu_seconds_per_step": "processor time of a step",
    "peak_memory_bytes": "peak memory",
    "scorer_share": "importance's share of the time",
    "seconds": "time of the run",
}


def write_report(run: Path, *, redacted: bool = False) -> Path:
    """Write `report.html` into the run folder and return its path; `report-redacted.html` has none of the rows' texts.

    Raises DataError where the folder is not a run folder, a file is missing or broken, or the page cannot be written.
    """
    folder = read_folder(run)
    check_no_links(run)
    view = _view(redact(folder) if redacted else folder)
    if redacted:
        groups = [group for group in view["groups"] if group["kind"] == "forget"]
        view |= _retained(folder) | {"retain": [], "groups": groups}
    view |= {"redacted": redacted}
    return put(run / f"report{'-redacted' if redacted else ''}.html", render("page.html.jinja", view))


def _view(folder: Folder) -> dict[str, Any]:
    results = folder.results
    run, agreed = results["run"], results["importance"]
    suite = results.get("suite", {})
    set_metrics = set_metric_rows(results.get("set_metrics", {}), suite.get("judge"))
    rows, found = rows_of(results), verdict(results)
    return {
        "name": folder.name,
        "method": f"{run['loss']['name']} × {run['importance']['name']}",
        "model": results["model"]["name"],
        "steps": len(folder.steps),
        "headline": f"{found.headline}.",
        "tone": found.tone,
        "reasons": [_unbroken(line) for line in found.reasons],
        "notes": found.notes,
        "scores": [(short, results[key], meaning, formula) for key, short, meaning, formula in SCORES],
        "beside": [(name, results[key]) for key, name in BESIDE.items() if results.get(key) is not None],
        "judge": (results.get("suite") or {}).get("judge"),
        "set_metrics": [row for row in set_metrics if row.given],
        "lacking": lacking(set_metrics),
        "evidence": [(name, [_measured(r, rows) for r in part]) for name, part in groupby(rows, lambda r: r.set)],
        "metrics": [METRIC_LABELS[m] for m in METRIC_LABELS if any(r.metric == m for r in rows)],
        "charts": [(c.title, c.caption, Markup(c.svg)) for c in charts(folder.steps)],
        "agreement": [(name, agreed[key], why) for key, name, why in AGREEMENT if agreed.get(key) is not None],
        "agreed": agreed,
        **_answers(folder, rows),
        **_retained(folder),
        "settings": [(key, plain(value)) for key, value in flat(run).items()],
        "cost": [(COSTS.get(key, key.replace("_", " ")), cost(key, value)) for key, value in results["cost"].items()],
        "facts": [(key.replace("_", " "), grouped(value)) for key, value in flat(results["model"]).items()],
        "data": [(set_name(name), source) for name, source in results["data"].items() if source],
        "silent": next((r for r in rows if r.set == "forget" and r.metric == "revealed" and r.after == 0), None),
    }


def _measured(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    """A row of the evidence, and where its marks stand on a line of 100; forget rows show the level of unseen rows."""
    level = row.set.replace("forget", "holdout") if row.set.startswith("forget") else None
    never = next((r.after for r in rows if (r.set, r.metric) == (level, row.metric)), None)
    return {"row": row, "was": _place(row.before), "now": _place(row.after), "never": _place(never)}


def _place(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else f"{100 * min(max(value, 0.0), 1.0):.1f}"


def _unbroken(line: str) -> str:
    """A sentence whose numbers keep together at the end of a line."""
    return re.sub(r" (?=[→=%]|\(n)|(?<=[→=]) ", "\N{NO-BREAK SPACE}", line)


def _retained(folder: Folder) -> dict[str, Any]:
    """Some retain rows, and how many answers stayed the same."""
    rows = answered_rows(folder, "retain")
    return {
        "retain": evenly_spaced(rows, RETAIN_SAMPLES),
        "retain_rows": len(rows),
        "retain_same": sum(item["row"]["before"] == item["row"]["after"] for item in rows),
    }


def _answers(folder: Folder, rows: Sequence[Row]) -> dict[str, Any]:
    """What comes first on the page, and the forget rows that are left for its end."""
    groups, heat = answer_groups(folder, rows), heated_rows(folder)
    first = {id(item["row"]) for group in groups for item in group["rows"]}
    rest = [item for item in heat if id(item["row"]) not in first]
    return {
        "groups": [group | {"line": score_line(group["score"])} for group in groups],
        "heat": rest[:MAX_HEAT_ROWS],
        "heat_left": max(len(rest) - MAX_HEAT_ROWS, 0),
        "forget_rows": len(heat),
        "gold": any(token["gold"] is not None for row in folder.importance for token in row["tokens"]),
    }
