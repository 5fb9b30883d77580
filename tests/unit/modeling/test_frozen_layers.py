"""Layers below the first trained one are computed once for each row: the same outputs and gradients, at less cost."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from deleatur.data.batches import collate, fine_tuning_batches
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.modeling import frozen_layers as module
from deleatur.modeling.frozen_layers import FrozenLayers
from deleatur.modeling.packed_attention import share
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.loop import Method, fit
from deleatur.training.train import training_only

UPPER = r"layers\.1\.|model\.norm\."


@pytest.fixture
def model(make_llama):
    return TokenModel(make_llama(num_hidden_layers=2)).prepare()


@pytest.fixture
def ran(model):
    """How many tokens went through each layer's own attention."""
    counts = [0, 0]
    for i, layer in enumerate(model.lm.model.layers):

        def count(of, given, named, out, i=i):
            counts[i] += named["hidden_states"].shape[1]

        layer.self_attn.register_forward_hook(count, with_kwargs=True)
    return counts


def made(model, rows):
    """NLL, and the gradients of what is trained."""
    model.zero_grad()
    nll = model(collate(rows)).nll
    nll.sum().backward()
    return nll.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_outputs_and_gradients_are_those_of_the_whole_decoder(model, forget_rows):
    rows = [*forget_rows[:4], forget_rows[1]]
    with training_only(model, UPPER):
        model.decoder._frozen, kept = None, model.decoder._frozen
        plain, gradients = made(model, rows)
        model.decoder._frozen = kept
        for _ in range(2):
            nll, ours = made(model, rows)
            torch.testing.assert_close(nll, plain, rtol=1e-4, atol=1e-5)
            for one, other in zip(ours, gradients, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_row_goes_through_the_lower_layer_once(model, ran, forget_rows):
    with training_only(model, UPPER):
        ran[:] = [0, 0]
        for rows in (forget_rows[:3], forget_rows[1:3], forget_rows[:3]):
            model(collate(rows))
        assert ran[0] == len(share([row.ids for row in forget_rows[:3]]).ids)
        assert ran[1] > ran[0]
    ran[:] = [0, 0]
    model(collate(forget_rows[:3]))
    assert ran[0] == ran[1] > 0


def test_a_training_that_resumes_computes_rows_in_the_groups_of_one_that_was_left_alone(
    make_llama, retain_rows, tmp_path, monkeypatch
):
    """Rounding depends on what a row is computed with; in a model this small it is the same by chance."""
    compute, groups = FrozenLayers.before, []

    def noted(self, rows):
        groups.append(rows)
        return compute(self, rows)

    def fine_tune(folder, steps):
        groups.clear()
        model = TokenModel(make_llama(num_hidden_layers=2)).prepare()
        windows = fine_tuning_batches(retain_rows[:9], epochs=3, batch=4, seed=0)
        method = Method(loss=GradientDifference(), importance=Uniform(), settings=Train(lr=1e-2))
        with training_only(model, UPPER):
            fit(model, islice(windows, steps), method, steps=9, checkpoints=Checkpoints(folder, every=2, keep=1))
        return list(groups), torch.cat([p.detach().flatten() for p in model.parameters()])

    monkeypatch.setattr(FrozenLayers, "before", noted)
    expected, weights = fine_tune(tmp_path / "whole", 9)
    fine_tune(tmp_path / "parts", 4)
    resumed, found = fine_tune(tmp_path / "parts", 9)
    assert resumed == expected
    assert torch.equal(found, weights)


@pytest.mark.parametrize("pattern", [r"layers\.0\.", r"embed|layers\.1\.", None])
def test_where_the_first_layer_or_the_embedding_is_trained_all_is_as_before(pattern, model, forget_rows):
    with training_only(model, pattern):
        assert model.decoder._frozen is None
        model(collate(forget_rows[:2])).nll.sum().backward()
    assert model.lm.model.embed_tokens.weight.grad is not None or pattern == r"layers\.0\."


def test_rows_that_find_no_room_go_through_all_layers(model, ran, forget_rows, monkeypatch):
    plain = model(collate(forget_rows[:3])).nll.detach()
    monkeypatch.setattr(module, "KEPT", 1)
    with training_only(model, UPPER):
        nll = model(collate(forget_rows[:3])).nll.detach()
        assert len(model.decoder._frozen._kept) == 1
    torch.testing.assert_close(nll, plain, rtol=1e-4, atol=1e-5)


def test_a_middle_layers_states_are_its_own(model, forget_rows):
    plain = model(collate(forget_rows[:3]), layer=0).layer.detach()
    with training_only(model, UPPER):
        torch.testing.assert_close(model(collate(forget_rows[:3]), layer=0).layer.detach(), plain, rtol=1e-4, atol=1e-5)
