"""Two deletion requests, both done, on a tiny model that knows the rows: what tests of requests begin with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from killing import carry_out
from test_forgetting import fine_tuned_model  # noqa: F401 - a fixture

METHOD = ("--recipe", "erase-spans", "--train.lr", "1.5e-3", "--train.epochs", "20", "--train.batch", "3")
WAYS = (*METHOD, "--evaluation.new-tokens", "24", "--keep.every", "None")


def lines(ledger: Path) -> list[dict]:
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]


def write_files(home, folder: Path) -> None:
    """Rows of the two people who ask, and of the one who stays."""
    retain = home.file("retain").read_text(encoding="utf-8").splitlines(True)
    shutil.copy(home.file("forget"), folder / "first.jsonl")
    (folder / "second.jsonl").write_text("".join(retain[:6]), encoding="utf-8")
    (folder / "keep.jsonl").write_text("".join(retain[6:]), encoding="utf-8")


@pytest.fixture(scope="module")
def done(home, fine_tuned_model, tmp_path_factory) -> Path:  # noqa: F811
    """A folder with a ledger of two requests, both done. Copy it before changing it."""
    folder = tmp_path_factory.mktemp("requests")
    write_files(home, folder)
    ledger = ("--ledger", str(folder / "requests.jsonl"))
    for name in ("first", "second"):
        rows = ("--forget", str(folder / f"{name}.jsonl"), "--retain", str(folder / "keep.jsonl"))
        assert carry_out(("request", "add", *ledger, *rows), folder / "log") == 0
    code = carry_out(("request", "run", *ledger, "--all", "--model", str(fine_tuned_model), *WAYS), folder / "log")
    assert code == 0, (folder / "log").read_text()
    return folder


@pytest.fixture
def copied(done, tmp_path, call) -> Path:
    """A copy to be changed, in the current folder."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    return tmp_path
