"""A bench is resumed on the terms on which it was begun, also where an older version wrote them down."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deleatur.commands.bench import check_same_terms
from deleatur.commands.options import Budget
from deleatur.config.run_config import Run
from deleatur.errors import ConfigError
from deleatur.run_folder.file_types import BenchTerms
from deleatur.run_folder.schema import read_json, write_json

BASE = Run(model="m", forget="f.jsonl", retain="r.jsonl")


def test_the_same_terms_are_taken_again(tmp_path):
    for _ in range(2):
        check_same_terms(tmp_path, BASE, Budget(), "uq")


def test_settings_that_an_older_version_lacked_are_at_their_defaults(tmp_path):
    check_same_terms(tmp_path, BASE, Budget(), "uq")
    written = read_json(tmp_path / "bench.json", BenchTerms)
    for part, key in (("data", "layout"), ("train", "own_answers"), ("evaluation", "start")):
        del written["run"][part][key]
    del written["run"]["subject"]
    write_json(tmp_path / "bench.json", written)
    check_same_terms(tmp_path, BASE, Budget(), "uq")


def test_other_terms_are_refused_by_name(tmp_path):
    check_same_terms(tmp_path, BASE, Budget(), "uq")
    with pytest.raises(ConfigError, match=r"another run.train.lr; give --out a new folder"):
        check_same_terms(tmp_path, replace(BASE, train=replace(BASE.train, lr=1e-3)), Budget(), "uq")
    with pytest.raises(ConfigError, match="another trials"):
        check_same_terms(tmp_path, BASE, Budget(trials=7), "uq")
