"""What is written is complete under its name, or not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import deleatur
from deleatur.errors import ConfigError
from deleatur.io.atomic import atomic_folder, write_atomic
from deleatur.io.tensors import write_tensors


def lines(*, broken: bool):
    yield "new\n"
    if broken:
        raise RuntimeError("no more lines")


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_atomic(path, "old\n")
    with pytest.raises(RuntimeError):
        write_atomic(path, lines(broken=True))
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]
    write_atomic(path, lines(broken=False))
    assert path.read_text() == "new\n"


def test_tensors_that_cannot_be_written_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"missing/x\.safetensors cannot be written .*; free some space"):
        write_tensors(tmp_path / "missing" / "x.safetensors", {"x": torch.zeros(2)})


def test_a_folder_is_written_aside_and_replaces_the_old_one(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "old").touch()
    with atomic_folder(tmp_path / "made", aside=tmp_path / ".part") as part:
        (part / "new").touch()
        assert (tmp_path / "made" / "old").exists()
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["made", "made/new"]


def test_no_other_module_moves_a_file_into_place():
    src = Path(deleatur.__file__).parent
    moves = re.compile(r"\bos\.(replace|rename)\(|\.rename\(|\bsave_file\(")
    assert [str(p) for p in src.rglob("*.py") if p.parent.name != "io" and moves.search(p.read_text(encoding="utf-8"))] == []
