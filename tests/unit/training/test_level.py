"""The level of unseen rows: measured on holdout rows, or estimated from what similar retain states are followed by; and what
a forgotten token is replaced by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.importance.masks import Fixed
from deleatur.importance.novelty import copied
from deleatur.losses import Erase
from deleatur.modeling.reference import last_states, make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.training.level import NEAREST, TEMPERATURE, _by_rank, blended, unseen_level


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


def nll_of(model, rows) -> list[torch.Tensor]:
    """NLL of each row's scored tokens, by transformers' own forward pass."""
    found = []
    for r in rows:
        logp = model.lm(torch.tensor([r.ids])).logits[0, r.start - 1 : -1].log_softmax(-1).detach()
        found.append(-logp.gather(1, torch.tensor(r.ids[r.start :])[:, None])[:, 0])
    return found


def kinds_of(row) -> torch.Tensor:
    """0 for what the prompt does not say, 1 where one of its words begins to be said, 2 where that goes on."""
    said = copied(row).tolist()
    return torch.tensor([0 if not now else 2 if before else 1 for before, now in zip([False, *said], said, strict=False)])


def test_with_holdout_rows_both_sides_end_with_the_same_distribution(model, sets):
    """The same rows on both sides, in an order of their own: the same numbers, dealt out by importance; among what is new,
    among first tokens of what the prompt already says, and among the tokens that follow them."""
    sets["holdout"] = sets["forget"]
    generator = torch.Generator().manual_seed(0)
    ranks = {r: torch.rand(len(r.ids) - r.start, generator=generator) for r in sets["forget"]}
    level = unseen_level(StartPass(model, batch=4), sets, Fixed(values=ranks))
    held = torch.cat(nll_of(model, sets["holdout"]))
    weights, found = (torch.cat([x[r] for r in sets["forget"]]) for x in (ranks, level.of))
    kinds, dealt = torch.cat([kinds_of(r) for r in sets["forget"]]), torch.empty_like(held)
    assert set(kinds.tolist()) == {0, 1, 2}
    for part in (kinds == kind for kind in range(3)):
        dealt[part] = held[part].sort().values[weights[part].argsort().argsort()]
    assert float(dealt[kinds == 2].max()) > 0.5
    dealt[kinds == 2] = dealt[kinds == 2].clamp(max=0.5)  # a name that has begun is still copied
    torch.testing.assert_close(found, torch.maximum(dealt, held), rtol=1e-3, atol=1e-4)  # no token below its own
    assert level.source == "6 holdout rows"
    assert level.nll == pytest.approx(float((weights * dealt).sum() / weights.sum()), rel=1e-4)


def test_copied_words_go_by_all_unseen_tokens_where_unseen_rows_have_none(model, sets):
    """Holdout rows whose answers repeat nothing: all forget tokens are of one distribution."""
    rows = sets["holdout"]
    sets["holdout"] = [replace(r, example=replace(r.example, prompt=(("user", "?"),))) for r in rows]
    ranks = {r: torch.rand(len(r.ids) - r.start) for r in sets["forget"]}
    level = unseen_level(StartPass(model, batch=4), sets, Fixed(values=ranks))
    weights, found = (torch.cat([x[r] for r in sets["forget"]]) for x in (ranks, level.of))
    kinds = torch.cat([kinds_of(r) for r in sets["forget"]])
    own, held = (torch.cat(nll_of(model, part)) for part in (sets["forget"], rows))
    for part in (kinds == 1, kinds == 2):
        dealt = _by_rank(weights[part], own[part], held).clamp(max=0.5 if int(kinds[part][0]) == 2 else 1e9)
        torch.testing.assert_close(found[part], torch.maximum(dealt, own[part]), rtol=1e-3, atol=1e-4)


def test_equal_importance_goes_by_the_tokens_own_nll():
    weights, own = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.2, 0.1, 0.3, 0.0])
    found = _by_rank(weights, own, torch.tensor([9.0, 1.0, 0.0, 4.0]))
    assert found.tolist() == [0.0, 9.0, 1.0, 4.0]


def test_with_fewer_tokens_each_gets_the_mean_of_its_share():
    """Of (0, 1, 2, 9) each of three gets 4/3 of a value."""
    found = _by_rank(torch.tensor([0.1, 0.9, 0.5]), torch.zeros(3), torch.tensor([2.0, 9.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([(0 + 1 / 3) * 3 / 4, (2 / 3 + 9) * 3 / 4, (2 / 3 + 4 / 3) * 3 / 4])


def test_no_tokens_level_is_below_its_own_nll(model, sets):
    """Unseen rows that the model knows by heart give levels near 0, which no forget token is brought down to."""
    first = StartPass(model, batch=4)
    level = unseen_level(first, sets, Fixed(values=values(sets["forget"])))
    own = torch.cat(nll_of(model, sets["forget"]))
    assert bool((torch.cat([level.of[r] for r in sets["forget"]]) >= own - 1e-4).all())


def test_without_holdout_rows_it_is_estimated_and_never_counts_the_token_itself(model, sets):
    """An untrained model gives every token about the same probability, so what similar states are followed by, with one
    token taken out, has the NLL of chance: log V."""
    del sets["holdout"]
    level = unseen_level(StartPass(model, batch=4), sets, Fixed(values=values(sets["forget"])))
    assert level.source == "estimated from similar retain rows"
    assert level.nll == pytest.approx(float(torch.tensor(float(model.vocabulary)).log()), rel=0.15)
    for row, own in zip(sets["forget"], nll_of(model, sets["forget"]), strict=True):  # others stay where they are
        torch.testing.assert_close(level.of[row][1::3], own[1::3], rtol=1e-3, atol=1e-4)


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
