"""One self-contained page from an audit's audit.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from deleatur.report.redact import WITHHELD, place_last
from deleatur.report.render import put, render
from deleatur.report.words import flat, plain
from deleatur.run_folder.file_types import AuditReport
from deleatur.run_folder.schema import read_audit

AUDIT_ARMS = (("original", "O"), ("audited", "U"), ("control", "N"), ("refuser", "H"))
FLAGS = {
    "DAMAGED": "DAMAGED: retain rows are answered worse than by the original, or answers are empty or loops.",
    "TRACE": "TRACE: rows to forget are less familiar than unseen ones, which marks them.",
}
SCALES = {
    "rate": "share of facts that came back",
    "area": "area under the curve against unseen rows, one half is chance",
    "scale": "place from the control (0) to the original (1)",
}


def write_audit_page(folder: Path, *, redacted: bool = False) -> Path:
    """Write `audit.html` into the folder of an audit and return its path; `audit-redacted.html` has no text of the rows.

    Raises DataError where audit.json is missing, broken or of another version, or the page cannot be written.
    """
    report = read_audit(folder / "audit.json", AuditReport)
    view = _view(cast(dict[str, Any], report), redacted)
    return put(folder / ("audit-redacted.html" if redacted else "audit.html"), render("audit.html.jinja", view))


def verdict_line(report: dict[str, Any]) -> str:
    """The audit's verdict in a sentence, with its flags and how many rows would be enough."""
    flags = "".join(f", {flag}" for flag in report["flags"])
    needed = f"; about {report['needed']} rows would decide" if report.get("needed") else ""
    return f"{report['verdict']}{flags}: {report['why']}{needed}."


def _view(report: dict[str, Any], redacted: bool) -> dict[str, Any]:
    name = _name(report["models"]["audited"])
    models = [(arm, letter, report["arms"][arm], _name(report["models"][arm])) for arm, letter in AUDIT_ARMS]
    return {
        "name": WITHHELD if redacted else name,
        "redacted": redacted,
        "verdict": [verdict_line(report), *(FLAGS[flag] for flag in report["flags"] if flag in FLAGS)],
        "models": [
            (arm, letter, what, WITHHELD if redacted else model, report["rows"][arm]) for arm, letter, what, model in models
        ],
        "attacks": [_attack(name, attack, redacted) for name, attack in report["attacks"].items()],
        "not_evaluated": report["not_evaluated"],
        "settings": [(key, plain(value)) for key, value in flat(report["settings"]).items()],
        "judge": report["judge"],
        "decoys": report["decoys"],
        "refuser_leak": report["refuser_leak"],
        "seconds": report["seconds"],
    }


def _name(model: str) -> str:
    """A model by its last part, one in a run's folder by the run's name."""
    run = Path(model).parent
    if Path(model).name != "model" or not run.name:
        return place_last(model)
    return f"{run.parent.name}, {run.name.replace('-', ' ')}" if run.name.startswith("seed-") else run.name


def _attack(name: str, attack: dict[str, Any], redacted: bool) -> dict[str, Any]:
    """An attack with its arms as intervals on one axis from 0 to 1."""
    arms = [_interval(arm, letter, attack["arms"][arm]) for arm, letter in AUDIT_ARMS if arm in attack["arms"]]
    labels = dict.fromkeys(label for arm in attack["arms"].values() for label in arm["settings"])
    rows = [
        (label, [attack["arms"].get(arm, {"settings": {}})["settings"].get(label) for arm, _ in AUDIT_ARMS])
        for label in labels
    ]
    rows += [(f"{label} (beside)", [rates.get(arm) for arm, _ in AUDIT_ARMS]) for label, rates in attack["beside"].items()]
    return attack | {
        "name": name,
        "scale": SCALES[attack["kind"]],
        "intervals": arms,
        "rows": rows,
        "leaked": [] if redacted else attack["leaked"],
    }


def _interval(arm: str, letter: str, figure: dict[str, Any]) -> dict[str, Any]:
    ends = {key: 100 * min(max(figure[key], 0.0), 1.0) for key in ("value", "low", "high")}
    return {"arm": arm, "letter": letter, "number": figure["value"], **figure, **{f"{k}_at": v for k, v in ends.items()}}
