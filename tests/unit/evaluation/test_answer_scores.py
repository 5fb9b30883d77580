"""What the start model says of generated answers: the numbers of one forward at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.evaluation import answer_scores
from deleatur.evaluation.answer_scores import SHUFFLES, scored_by_start
from deleatur.evaluation.batch_cache import BatchCache
from deleatur.evaluation.predictions import Predictor
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Evaluation
from deleatur.types import Example

SETTINGS = Evaluation(batch=3, new_tokens=6)


def predictor(lm, encoder, **more) -> Predictor:
    return Predictor(model=TokenModel(lm).prepare(), encoder=encoder, settings=SETTINGS, **more)


@torch.no_grad()
def nll(lm, prompt: tuple[int, ...], answer: list[int]) -> float:
    """Mean NLL of the answer's tokens behind the prompt."""
    ids = torch.tensor([[*prompt, *answer]])
    logp = lm(ids).logits[0].float().log_softmax(-1)
    return -sum(float(logp[len(prompt) + i - 1, token]) for i, token in enumerate(answer)) / len(answer)


@pytest.fixture
def asked(llama, plain, forget_rows):
    """Rows, and what a model said to them."""
    sets = {"forget": forget_rows[:3], "again": forget_rows[:1]}
    return sets, predictor(llama, plain).records(sets)


def test_an_answer_has_the_mean_nll_of_its_tokens_in_order_and_shuffled(make_llama, plain, asked):
    """By another model than the one that spoke; the end of turn does not count, and the shuffles hold the same tokens."""
    start, (sets, records) = make_llama(seed=1), asked
    for row, scored in zip(sets["forget"], scored_by_start(predictor(start, plain), *asked)["forget"], strict=True):
        prompt = row.ids[: row.start]
        answer = list(plain(replace(row.example, answer=scored.generated)).ids[row.start : -1])
        assert scored.start_tokens == len(answer) > 1
        assert scored.start_nll == pytest.approx(nll(start, prompt, answer), abs=1e-4)
        again = answer_scores._in_orders(answer_scores._answered(plain, row, scored.generated))
        assert len(again) == 1 + SHUFFLES
        others = [list(e.ids[row.start :]) for e in again[1:]]
        assert all(sorted(other) == sorted(answer) for other in others)
        assert scored.shuffled_nll == pytest.approx(sum(nll(start, prompt, other) for other in others) / SHUFFLES, abs=1e-4)
    assert records["forget"][0].start_nll is None


def test_all_else_in_a_record_stays_and_equal_answers_have_equal_scores(llama, plain, asked):
    sets, records = asked
    scored = scored_by_start(predictor(llama, plain), sets, records)
    blank = {"start_nll": None, "shuffled_nll": None, "start_tokens": None}
    assert {name: [replace(r, **blank) for r in rows] for name, rows in scored.items()} == records
    assert scored["again"][0] == scored["forget"][0]


def test_records_without_a_question_are_unchanged_and_an_empty_answer_has_no_tokens(llama, plain, forget_rows):
    text = plain(Example(id="t", prompt=(), answer="The writer was born in a small town."))
    sets = {"all": [text, forget_rows[0]]}
    records = predictor(llama, plain).records(sets, generate=False)
    bare, empty = scored_by_start(predictor(llama, plain), sets, records)["all"]
    assert (bare.start_tokens, empty.start_tokens, empty.start_nll) == (None, 0, None)


def test_batches_that_were_kept_are_not_scored_again(llama, plain, asked, tmp_path, monkeypatch):
    """A pass that is killed goes on where it was, to the same bits."""
    sets, records = asked
    first = scored_by_start(predictor(llama, plain, batch_cache=BatchCache(tmp_path / "after")), sets, records)
    monkeypatch.setattr(TokenModel, "forward", None)
    again = scored_by_start(predictor(llama, plain, batch_cache=BatchCache(tmp_path / "after")), sets, records)
    assert again == first
