"""Cached batches of an evaluation: what was finished is not computed again, and is used for nothing else."""

from __future__ import annotations

import json
import math

import pytest

from deleatur.evaluation import batch_cache as batch_cache_module
from deleatur.evaluation import predictions as records_module
from deleatur.evaluation.batch_cache import BatchCache, clear
from deleatur.evaluation.predictions import Predictor
from deleatur.importance import WGA
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Evaluation

SETTINGS = Evaluation(batch=1, new_tokens=3, grad_norm=True)


class Killed(BaseException):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records" / "before.jsonl"


@pytest.fixture
def asked(llama, plain, monkeypatch):
    """Records of rows by a cache, and how many batches of each kind the model was given; killed after so many in all."""

    def asked(rows, batch_cache, killed_after=math.inf):
        counts = dict.fromkeys(("_predict_batch", "_gradient_norm", "greedy"), 0)
        real = {name: getattr(records_module, name) for name in counts}

        def counted(name):
            def call(*args, **kwargs):
                if sum(counts.values()) == killed_after:
                    raise Killed
                counts[name] += 1
                return real[name](*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in counts:
                patch.setattr(records_module, name, counted(name))
            model, importance = TokenModel(llama).prepare(), WGA(beta=1.0)
            try:
                predictor = Predictor(model=model, encoder=plain, settings=SETTINGS, batch_cache=batch_cache)
                made = predictor.records({"forget": rows}, importance=importance)
            except Killed:
                made = None
        return made, list(counts.values())

    return asked


def test_a_killed_evaluation_resumes_with_the_same_records(asked, path, forget_rows):
    """Five rows one at a time, four at a time when they answer: 5 + 5 (gradients) + 2 batches."""
    rows = forget_rows[:5]
    alone, all_of_them = asked(rows, BatchCache())
    assert all_of_them == [5, 5, 2]
    for killed_after in range(12):
        assert asked(rows, BatchCache(path), killed_after)[0] is None
        again, left = asked(rows, BatchCache(path))
        assert again == alone
        assert sum(left) == 12 - killed_after
        assert asked(rows, BatchCache(path)) == (alone, [0, 0, 0])
        clear(path)
        assert list(path.parent.iterdir()) == []


def test_an_incomplete_line_is_cut_off(asked, path, forget_rows):
    alone, _ = asked(forget_rows[:5], BatchCache(path))
    whole = (kept := path.with_suffix(".0.part.jsonl")).read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 1):
        kept.write_bytes(whole[:size])
        again, left = asked(forget_rows[:5], BatchCache(path))
        assert (again, sum(left)) == (alone, 12 - whole[:size].count(b"\n"))
        assert kept.read_bytes() == whole
    kept.write_bytes(whole[:20] + b"\n" + whole)
    assert asked(forget_rows[:5], BatchCache(path)) == (alone, [5, 5, 2])
    assert kept.read_bytes() == whole


def test_a_cache_of_other_rows_or_terms_is_not_used(asked, path, forget_rows):
    asked(forget_rows[:5], BatchCache(path, ("these weights", 1)))
    other, _ = asked(forget_rows[5:10], BatchCache())
    assert asked(forget_rows[5:10], BatchCache(path, ("these weights", 1))) == (other, [5, 5, 2])
    assert asked(forget_rows[5:10], BatchCache(path, ("other weights", 1))) == (other, [5, 5, 2])
    assert asked(forget_rows[5:10], BatchCache(path, ("other weights", 1))) == (other, [0, 0, 0])


def test_a_batch_is_finished_where_all_processes_have_it(path, monkeypatch):
    """The other process has the first of three, so from the second on both ask, and agree on nothing more."""
    before = BatchCache(path)
    for k in range(3):
        before.get_or_make("likelihood", k, lambda k=k: k)
    others = iter([True, False])
    monkeypatch.setattr(batch_cache_module, "gather", lambda mine: [mine, next(others)])
    batch_cache = BatchCache(path)
    assert [batch_cache.get_or_make("likelihood", k, lambda k=k: -k) for k in range(3)] == [
        (0, False),
        (-1, True),
        (-2, True),
    ]
    assert [json.loads(line)["made"] for line in path.with_suffix(".0.part.jsonl").read_text().splitlines()] == [0, -1, -2]


def test_numbers_are_kept_to_the_bit_and_texts_not_at_all(path):
    said = [0.1 + 0.2, 1e-310, -0.0, math.inf, 5e-324, 1 / 3]
    BatchCache(path).get_or_make("likelihood", "the secret", lambda: said)
    read, now = BatchCache(path).get_or_make("likelihood", "the secret", lambda: pytest.fail("asked again"))
    assert [x.hex() for x in read] == [x.hex() for x in said]
    assert not now
    text = path.with_suffix(".0.part.jsonl").read_text()
    assert "secret" not in text
    assert json.loads(text).keys() == {"sha256", "made"}


def test_nothing_is_made_where_the_runs_folder_is_elsewhere(tmp_path):
    """On another machine, where only the first process has the folder."""
    assert BatchCache(tmp_path / "run" / "records" / "before.jsonl").get_or_make("likelihood", 0, lambda: 1) == (1, True)
    assert list(tmp_path.iterdir()) == []
