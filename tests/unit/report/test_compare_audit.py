"""What audits found, beside the figures of the methods whose models they attacked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deleatur.errors import DataError
from deleatur.report import compare_table, gather, write_comparison


def audit(verdict: str, ask: float, relearn: str = "LEAK") -> dict[str, Any]:
    """The parts of an audit.json that stand in a comparison."""
    levels = {"original": {"value": 0.9}, "control": {"value": 0.0}, "refuser": {"value": 0.5}}
    attacks = {
        "ask": {"verdict": "CLEAR", "why": "", "arms": levels | {"audited": {"value": ask}}},
        "relearn": {"verdict": relearn, "why": "the refuser is not detected", "arms": {"audited": {"value": 0.25}}},
    }
    return {"schema_version": 1, "verdict": verdict, "why": "it comes back", "flags": ["TRACE"], "attacks": attacks}


@pytest.fixture
def audited(make: Callable[..., Path], tmp_path: Path) -> list[Path]:
    """Runs of the methods a, b and c; the third has no audit."""
    runs = [make(tmp_path / name / "seed-0", method=name) for name in ("a", "b", "c")]
    for run, found in zip(runs, (audit("LEAK", 0.125), audit("VOID", 0.5, relearn="VOID")), strict=False):
        (run / "audit").mkdir()
        (run / "audit" / "audit.json").write_text(json.dumps(found))
    return runs


def test_what_came_back_is_a_column_of_its_attack(audited: list[Path]) -> None:
    """In percent; a void attack has no number and says why, as a run without an audit does."""
    table = compare_table(gather(audited))
    at = {name: list(table.columns).index(f"audit: {name}, % ↓") for name in ("ask", "relearn")}
    cells = {row[0]: (row[at["ask"]], row[at["relearn"]]) for row in table.rows}
    assert cells["a"] == ("12.5", "25.0")
    assert cells["b"][0] == "50.0" and cells["b"][1].startswith("–")
    assert all(text.startswith("–") for text in cells["c"])
    notes = " ".join(table.notes)
    assert "audit: relearn, %: void, the refuser is not detected" in notes
    assert "audit: ask, %: not audited" in notes


def test_verdicts_flags_and_controls_are_under_the_table(audited: list[Path], tmp_path: Path) -> None:
    page = write_comparison(gather(audited), tmp_path / "out").read_text()
    for text in (page, (tmp_path / "out" / "table.md").read_text()):
        assert "Audit of a, seed 0: LEAK, TRACE: it comes back." in text
        assert "Audit, on original, control, refuser: ask 90.0, 0.0, 50.0; relearn –, –, –." in text
    assert "By the audits, what was to be forgotten comes back from a." in page


def test_without_audits_nothing_is_said_of_them(make: Callable[..., Path], tmp_path: Path) -> None:
    table = compare_table(gather([make(tmp_path / "a"), make(tmp_path / "b", method="b")]))
    assert "udit" not in " ".join((*table.columns, *table.notes))


def test_an_audit_of_a_newer_version_is_refused(audited: list[Path]) -> None:
    path = audited[0] / "audit" / "audit.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    with pytest.raises(DataError, match="schema_version 9"):
        gather(audited)
