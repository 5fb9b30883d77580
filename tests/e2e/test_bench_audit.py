"""`deleatur bench --audit`: what comes back of each method's model stands beside its figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deleatur.commands.demo import write_world
from deleatur.data.world import make_world

SHORT = ("--train.epochs", "1", "--train.batch", "4", "--evaluation.new-tokens", "4", "--rates", "1e-4", "1e-2")
METHODS = ("graddiff", "wga")


@pytest.fixture
def bench(home: Any, call: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Twelve rows about two people, enough to be audited."""
    write_world(make_world(people=4, forget=2, holdout=2, rows_per_fact=1), tmp_path / "rows")
    rows = [a for name in ("forget", "retain", "holdout") for a in (f"--{name}", tmp_path / "rows" / f"{name}.jsonl")]
    more = ("--objective", "extraction_strength", "--out", tmp_path / "b", "--seeds", "0")

    def bench(*given: str, methods: tuple[str, ...] = METHODS[:1]) -> Any:
        return call("bench", "--model", home.model, *rows, *SHORT, *more, "--methods", *methods, *given)

    return bench


def test_every_runs_model_is_audited_against_the_same_controls(bench: Callable[..., Any], tmp_path: Path) -> None:
    """The tiny model never knew the rows, so its audit is void; no model is kept. A second call does nothing."""
    said = bench("--audit", methods=METHODS)
    assert said.code == 0, said.err
    folders = [tmp_path / "b" / method / "seed-0" for method in METHODS]
    audits = [json.loads((folder / "audit" / "audit.json").read_text()) for folder in folders]
    assert [a["verdict"] for a in audits] == ["VOID", "VOID"]
    assert not any((folder / "model").exists() for folder in folders)
    controls = tmp_path / "b" / "audit-controls" / "cells"
    assert {p.name.split(".")[1] for p in controls.iterdir()} == {"original", "refuser"}, "decoys are asked of each model"
    for path in controls.iterdir():
        assert all((f / "audit" / "cells" / path.name).read_bytes() == path.read_bytes() for f in folders)
    assert "Audit of graddiff, seed 0: VOID" in (tmp_path / "b" / "table.md").read_text()
    written = {p: p.stat().st_mtime_ns for f in folders for p in (f / "audit").rglob("*.json")}
    assert bench("--audit", methods=METHODS).out == said.out
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_an_interrupted_audit_is_completed(bench: Callable[..., Any], tmp_path: Path) -> None:
    """Between the run and its audit: the run is not made again, its model is audited."""
    import deleatur.commands.bench as module

    audit, module.audit_run = module.audit_run, _interrupt
    try:
        assert bench("--audit").code == 130
    finally:
        module.audit_run = audit
    folder = tmp_path / "b" / "graddiff" / "seed-0"
    before = (folder / "results.json").stat().st_mtime_ns
    assert (folder / "model").exists()
    assert bench("--audit").code == 0
    assert (folder / "audit" / "audit.json").exists()
    assert (folder / "results.json").stat().st_mtime_ns == before


def test_runs_without_their_models_cannot_be_audited(bench: Callable[..., Any], tmp_path: Path) -> None:
    bench()
    said = bench("--audit")
    assert said.code == 2
    assert "was run without --audit" in said.err


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_an_audit_needs_a_control(home: Any, call: Callable[..., Any], tmp_path: Path) -> None:
    said = call(
        "bench", "--model", home.model, *home.rows, *SHORT, "--methods", *METHODS, "--out", tmp_path / "b", "--audit"
    )
    assert said.code == 2
    assert "unseen rows as --holdout" in said.err
    shutil.rmtree(tmp_path / "b", ignore_errors=True)
