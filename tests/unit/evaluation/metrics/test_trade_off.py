"""FQ, RD and UQ by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deleatur.evaluation.metrics.trade_off import loss_of, trade_off


@pytest.mark.parametrize(
    ("forget", "retain", "fq", "rd", "uq"),
    [
        ((0.8, 0.0), (0.9, 0.9), 100, 0, 100),  # all gone, nothing lost
        ((0.8, 0.4), (0.8, 0.6), 50, 25, 60),  # harmonic mean of 50 and 75
        ((0.8, 0.8), (0.9, 0.9), 0, 0, 0),  # nothing done
        ((0.8, 0.9), (0.9, 0.9), -12.5, 0, 0),  # worse than before
        ((0.8, 0.0), (0.9, 0.0), 100, 100, 0),  # everything gone
        ((0.8, 0.0), (0.5, 0.6), 100, 20, 800 / 9),  # a gain on retain is drift: harmonic mean of 100 and 80
        ((0.8, 0.0), (0.2, 0.9), 100, 350, 0),  # rows that were hardly known were trained in
    ],
)
def test_by_hand(forget, retain, fq, rd, uq):
    assert trade_off(forget, retain) == pytest.approx((fq, rd, uq))


def test_a_score_that_starts_at_zero_cannot_fall():
    assert trade_off((0.0, 0.0), (0.5, 0.4)) == (None, pytest.approx(20), None)
    assert trade_off((0.5, 0.0), (0.0, 0.0)) == (pytest.approx(100), None, None)
    assert trade_off((0.0, 0.0), (0.0, 0.1)) == (None, None, None)


def test_the_papers_damage_counts_a_loss_alone():
    assert loss_of((0.8, 0.6)) == pytest.approx(25)
    assert loss_of((0.5, 0.6)) == 0.0
    assert loss_of((0.0, 0.6)) is None


@given(*[st.tuples(st.floats(0.01, 1), st.floats(0, 1))] * 2)
def test_uq_is_between_fq_and_rd(forget, retain):
    fq, rd, uq = trade_off(forget, retain)
    assert fq <= 100 + 1e-9
    assert rd >= loss_of(retain) >= 0
    assert 0 <= uq <= 100 + 1e-9
    if fq > 0 and rd < 100:
        assert min(fq, 100 - rd) - 1e-9 <= uq <= max(fq, 100 - rd) + 1e-9
