"""Rows are read once before training, whoever asks, and have the states of a forward of their own."""

from __future__ import annotations

import pytest
import torch

from deleatur.data.batches import collate
from deleatur.modeling import start_pass as module
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.requirements import Requirements


@pytest.fixture
def model(llama):
    return TokenModel(llama).prepare()


@pytest.fixture
def read(model):
    """How often each row goes through the model."""
    met: list = []
    model.register_forward_pre_hook(lambda module, given: met.extend(given[0].rows))
    return met


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_a_row_has_the_states_that_it_has_alone(batch, model, forget_rows):
    made = StartPass(model, batch=batch).states(forget_rows[:6])
    for row in forget_rows[:6]:
        alone = model(collate([row]), state="both")
        torch.testing.assert_close(made[row].nll, alone.nll.detach(), rtol=1e-4, atol=1e-4)
        both = torch.cat([made[row].before, made[row].at], 1)
        torch.testing.assert_close(both, alone.hidden.detach(), rtol=1e-4, atol=1e-4)


def test_a_row_is_read_once_whoever_asks(model, read, forget_rows, retain_rows):
    start = StartPass(model, batch=3)
    first = start.states([*forget_rows[:5], *forget_rows[:2]])
    again = start.states([*forget_rows[2:5], *retain_rows[:4]])
    mean = start.mean_nll(forget_rows[:5])
    (tokens, *_) = start.outputs(forget_rows[:1], Requirements())
    assert sorted(row.example.id for row in read) == sorted(row.example.id for row in (*forget_rows[:5], *retain_rows[:4]))
    assert all(again[row] is first[row] for row in forget_rows[2:5])
    assert mean == pytest.approx(float(torch.cat([first[row].nll for row in forget_rows[:5]]).mean()))
    assert torch.equal(tokens.nll, first[forget_rows[0]].nll)
    assert torch.equal(tokens.hidden, first[forget_rows[0]].at)


def test_what_finds_no_room_is_read_again(model, read, forget_rows, monkeypatch):
    """Room for the states of the first row alone; both times all are there."""
    count = len(forget_rows[0].ids) - forget_rows[0].start
    monkeypatch.setattr(module, "KEPT", 2 * count * model.width * 4)
    start = StartPass(model, batch=1)
    once = start.states(forget_rows[:1])
    for _ in range(2):
        assert start.states(forget_rows[:2]).keys() == {*forget_rows[:2]}
    assert read.count(forget_rows[0]) == 1
    assert read.count(forget_rows[1]) == 2
    assert torch.equal(start.states(forget_rows[:1])[forget_rows[0]].at, once[forget_rows[0]].at)


def test_a_middle_layer_and_logits_take_a_pass_of_their_own(model, read, forget_rows):
    start = StartPass(model, batch=4)
    start.states(forget_rows[:3])
    made = dict(start.after_layer(forget_rows[:3], 0))
    (tokens,) = start.outputs(forget_rows[:3], Requirements(logits=True))
    assert len(read) == 9
    expected = model(collate(forget_rows[:1]), layer=0).layer.detach()
    torch.testing.assert_close(made[forget_rows[0]], expected, rtol=1e-4, atol=1e-4)
    assert tokens.logits.shape[1] == model.vocabulary


def test_of_no_rows_there_is_nothing(model):
    assert StartPass(model, batch=4).states([]) == {}
    assert StartPass(model, batch=4).mean_nll([]) == 0.0
