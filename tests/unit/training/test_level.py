"""The level of unseen rows: measured on holdout rows, or estimated from what similar retain states are followed by; and what
a forgotten token is replaced by."""

from __future__ import annotations

import pytest
import torch

from deleatur.importance.masks import Fixed
from deleatur.losses import Erase
from deleatur.modeling.reference import last_states, make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.training.level import NEAREST, TEMPERATURE, blended, unseen_level


def values(rows, chosen: float = 1.0, other: float = 0.0) -> dict:
    """Every third scored token selected."""
    every = [torch.arange(len(r.ids) - r.start) % 3 == 0 for r in rows]
    return {r: torch.where(e, chosen, other) for r, e in zip(rows, every, strict=True)}


@pytest.fixture
def model(make_llama):
    return TokenModel(make_llama()).prepare()


@pytest.fixture
def sets(forget_rows, retain_rows):
    return {"forget": forget_rows[:6], "retain": retain_rows[:12], "holdout": retain_rows[12:18]}


def test_with_holdout_rows_it_is_the_mean_nll_of_their_selected_tokens(model, sets):
    importance = Fixed(values=values(sets["forget"]) | values(sets["holdout"]))
    expected = torch.cat(
        [model.lm(torch.tensor([r.ids])).logits[0, r.start - 1 : -1].log_softmax(-1)[range(n), list(r.ids[r.start :])][::3]
         for r in sets["holdout"] if (n := len(r.ids) - r.start)]
    ).neg()  # fmt: skip
    level = unseen_level(StartPass(model, batch=4), sets, importance)
    assert level.nll == pytest.approx(float(expected.detach().mean()), rel=1e-4)
    assert level.source == "6 holdout rows"


def test_spans_of_holdout_rows_are_used_where_the_importance_does_not_cover_them(model, sets):
    importance = Fixed(values=values(sets["forget"]))
    marked = Fixed(values=values(sets["forget"]) | {r: torch.tensor(r.gold, dtype=torch.float) for r in sets["holdout"]})
    assert unseen_level(StartPass(model, batch=4), sets, importance) == unseen_level(StartPass(model, batch=4), sets, marked)


def test_without_holdout_rows_it_is_estimated_and_never_counts_the_token_itself(model, sets):
    """An untrained model gives every token about the same probability, so what similar states are followed by, with one
    token taken out, has the NLL of chance: log V."""
    del sets["holdout"]
    level = unseen_level(StartPass(model, batch=4), sets, Fixed(values=values(sets["forget"])))
    assert level.source == "estimated from similar retain rows"
    assert level.nll == pytest.approx(float(torch.tensor(float(model.vocabulary)).log()), rel=0.15)


@pytest.mark.parametrize("chosen", [0.0, 1.0])
def test_an_importance_that_selects_nothing_or_everything_gives_no_estimate(model, sets, chosen):
    del sets["holdout"]
    assert unseen_level(StartPass(model, batch=4), sets, Fixed(values=values(sets["forget"], chosen, chosen))) is None


class TestBlended:
    @pytest.fixture
    def states(self, model, sets):
        """The teacher's states before and after, and what they were made of."""
        first = StartPass(model, batch=4)
        plain = make_reference(first, [*sets["forget"], *sets["retain"]], Erase().requires).teacher
        assert plain is not None
        return first, plain.states, blended(plain, first, sets, Fixed(values=values(sets["forget"]))).states

    def test_where_a_forget_token_is_selected_similar_retain_states_weigh_in(self, states, sets):
        first, plain, mixed = states
        retain = torch.cat([h for h, _ in last_states(first, sets["retain"])])
        for row in sets["forget"]:
            own, made = plain([row]), mixed([row])
            for k in range(0, len(own), 3):
                cosines = torch.cosine_similarity(own[k : k + 1], retain)
                near = cosines.topk(NEAREST)
                found = torch.cat([own[k : k + 1], retain[near.indices]])
                weights = torch.cat([torch.ones(1), near.values]).div(TEMPERATURE).softmax(0)
                torch.testing.assert_close(made[k], weights @ found, rtol=1e-4, atol=1e-5)

    def test_everything_else_stays_as_the_start_model_has_it(self, states, sets):
        _, plain, mixed = states
        for row in sets["forget"]:
            others = torch.arange(len(row.ids) - row.start) % 3 != 0
            assert torch.equal(mixed([row])[others], plain([row])[others])
        assert torch.equal(mixed(sets["retain"]), plain(sets["retain"]))

    def test_rows_come_in_the_order_in_which_they_are_asked_for(self, states, sets):
        _, _, mixed = states
        asked = [sets["forget"][2], sets["retain"][0], sets["forget"][0]]
        assert torch.equal(mixed(asked), torch.cat([mixed([row]) for row in asked]))
        assert len(mixed([])) == 0
