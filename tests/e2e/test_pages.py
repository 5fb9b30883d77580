"""The commands of the pages of docs/ run on a tiny model, word for word but for the model's name."""

from __future__ import annotations

import json
import shutil

import pytest
from page_commands import ROOT, blocks, run

DOCS = ROOT / "docs"
QUICK = ("--train.epochs", "1", "--evaluation.new-tokens", "4", "--keep.every", "None")


def test_a_request_runs_from_rows_to_export(home, call, tmp_path, monkeypatch):
    """What the page promises is there at its end: a redacted page without the person, a model, settings to repeat it."""
    monkeypatch.chdir(tmp_path)
    for script in blocks(DOCS / "delete-one-person.md", "bash"):
        run(script, home, call, tmp_path, *(() if "--show" in script else QUICK))
    assert "Teburg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    redacted = (tmp_path / "run" / "report-redacted.html").read_text(encoding="utf-8")
    for place in (redacted, (tmp_path / "run" / "run.yaml").read_text(), (tmp_path / "run" / "results.json").read_text()):
        assert "Teburg" not in place
        assert "Nojul" not in place
    assert (tmp_path / "model" / "model.safetensors").exists()
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert len(results["data"]["forget"]["sha256"]) == 64


@pytest.mark.parametrize("page", ["lora", "model", "rows"])
def test_the_commands_of_a_how_to_run(page, home, call, tmp_path):
    for name in ("forget", "retain"):
        shutil.copy(home.file(name), tmp_path)
    for script in blocks(DOCS / "how-to" / f"{page}.md", "bash"):
        run(script, home, call, tmp_path, *QUICK)
