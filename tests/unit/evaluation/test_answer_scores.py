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


def test_an_answer_that_was_scored_before_keeps_its_figures_and_is_not_scored_again(llama, plain, asked):
    """Another answer, or the same one to another row, is scored as without them."""
    sets, records = asked
    fresh = scored_by_start(predictor(llama, plain), sets, records)
    first, *others = fresh["forget"]
    marked = replace(first, start_nll=123.0, shuffled_nll=124.0)
    known = {"forget": [marked, *(replace(r, generated="Something else.", start_nll=125.0) for r in others)]}
    start = predictor(llama, plain)
    again = scored_by_start(start, sets, records, known)
    assert again["forget"] == [marked, *others]
    assert again["again"] == fresh["again"]


def test_where_all_was_scored_before_the_model_is_not_run(llama, plain, asked, monkeypatch):
    sets, records = asked
    fresh = scored_by_start(predictor(llama, plain), sets, records)
    start = predictor(llama, plain)
    monkeypatch.setattr(TokenModel, "forward", None)
    assert scored_by_start(start, sets, records, fresh) == fresh


def test_its_own_nll_of_the_rows_answer_is_not_computed_again(llama, plain, asked):
    """A model that answers what the row says has read that answer for its record."""
    sets, records = asked
    spoken = {name: [replace(r, generated=r.answer) for r in rows] for name, rows in records.items()}
    start = predictor(llama, plain)
    met: list = []
    start.model.register_forward_pre_hook(lambda module, given: met.extend(given[0].rows))
    twice, once = (scored_by_start(start, sets, spoken, own=own)["forget"] for own in (False, True))
    assert len(met) == 3 * (1 + SHUFFLES) + 3 * SHUFFLES
    for record, other in zip(once, twice, strict=True):
        assert record.start_nll == pytest.approx(other.start_nll, abs=1e-4)
        assert (record.shuffled_nll, record.start_tokens) == (
            pytest.approx(other.shuffled_nll, abs=1e-4),
            other.start_tokens,
        )
