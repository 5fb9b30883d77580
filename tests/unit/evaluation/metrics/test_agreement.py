"""Agreement of importance with what had to be forgotten, against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.evaluation.metrics.agreement import agreement
from deleatur.types import Record

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=2, max_size=25)
MIXED = PAIRS.filter(lambda pairs: len({gold for _, gold in pairs}) == 2)


def record(pairs) -> Record:
    return Record(
        id="1",
        question="?",
        answer="a",
        generated="",
        logp=(-1.0,) * len(pairs),
        hit=(True,) * len(pairs),
        ends=False,
        importance=tuple(score for score, _ in pairs),
        gold=tuple(gold for _, gold in pairs),
    )


def auc(pairs) -> float:
    """Share of pairs (gold, other) in which the gold token scores higher; a tie is half a pair."""
    gold, other = ([s for s, g in pairs if g is side] for side in (True, False))
    return sum((a > b) + (a == b) / 2 for a in gold for b in other) / (len(gold) * len(other))


def average_precision(pairs) -> float:
    """Σ over thresholds, from the highest score down: precision there · recall gained there."""
    positives, total, before = sum(g for _, g in pairs), 0.0, 0.0
    for threshold in sorted({s for s, _ in pairs}, reverse=True):
        taken = [g for s, g in pairs if s >= threshold]
        recall = sum(taken) / positives
        total += sum(taken) / len(taken) * (recall - before)
        before = recall
    return total


def precision_at(pairs, k: int) -> float:
    """Mean over all ways to break ties: at each place, the mean gold of the tokens with the score of that place."""
    ordered = sorted((s for s, _ in pairs), reverse=True)[:k]
    share = {score: [g for s, g in pairs if s == score] for score in set(ordered)}
    return sum(sum(share[s]) / len(share[s]) for s in ordered) / k


@given(MIXED)
def test_roc_auc_is_the_share_of_pairs_in_order(pairs):
    assert agreement([record(pairs)], budget=0.2)["roc_auc"] == pytest.approx(auc(pairs))


@given(MIXED)
def test_average_precision_is_that_of_all_thresholds(pairs):
    assert agreement([record(pairs)], budget=0.2)["average_precision"] == pytest.approx(average_precision(pairs))


@given(MIXED, st.floats(0.01, 0.99))
def test_precision_at_budget_is_the_expected_one_with_ties_broken_at_random(pairs, budget):
    expected = precision_at(pairs, max(1, round(budget * len(pairs))))
    assert agreement([record(pairs)], budget=budget)["precision_at_budget"] == pytest.approx(expected)


def test_by_hand():
    """Scores .9 .8 .7 .6 with gold 1 0 1 0: of four pairs three are in order; AP = 1·½ + ⅔·½; of the first two one is."""
    seen = agreement([record([(0.9, True), (0.8, False), (0.7, True), (0.6, False)])], budget=0.5)
    assert seen == pytest.approx(
        {"roc_auc": 0.75, "average_precision": 5 / 6, "precision_at_budget": 0.5, "budget": 0.5, "gold_share": 0.5, "n": 4}
    )


def test_equal_importance_everywhere_is_a_guess():
    seen = agreement([record([(0.5, True), (0.5, False), (0.5, False), (0.5, False)])], budget=0.2)
    assert seen["roc_auc"] == 0.5
    assert seen["average_precision"] == seen["precision_at_budget"] == seen["gold_share"] == 0.25


@given(MIXED, st.data())
def test_rows_are_pooled_and_their_order_does_not_matter(pairs, data):
    cut = data.draw(st.integers(1, len(pairs) - 1))
    whole = agreement([record(pairs)], budget=0.3)
    assert agreement([record(pairs[cut:]), record(pairs[:cut])], budget=0.3) == pytest.approx(whole)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record([(0.1, True), (0.2, True)])],
        [record([(0.1, False), (0.2, False)])],
        [Record(id="1", question="?", answer="a", generated="", logp=(-1.0,), hit=(True,), ends=False, importance=(0.5,))],
    ],
)
def test_without_spans_or_with_all_or_none_marked_there_is_nothing_to_say(records):
    assert agreement(records, budget=0.2) == {}


def test_a_row_without_spans_is_left_out_where_others_have_some():
    bare = Record(id="2", question="?", answer="a", generated="", logp=(-1.0,), hit=(True,), ends=False, importance=(1.0,))
    pairs = [(0.9, True), (0.1, False)]
    assert agreement([bare, record(pairs)], budget=0.5) == agreement([record(pairs)], budget=0.5)
