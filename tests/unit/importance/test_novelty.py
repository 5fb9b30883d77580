"""Novelty: what the retain rows neither span nor predict matters, in closed form and whatever the order of the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.data.encode import encode_all
from deleatur.data.words import repeated, words
from deleatur.errors import ConfigError
from deleatur.importance import Novelty
from deleatur.importance.novelty import copied, novelty, within
from deleatur.types import HeadStates, Start

WIDTH = 12


def drawn(rows, *, alien: dict[int, int] | None = None, seed: int = 0) -> list[HeadStates]:
    """States within a plane of four directions and an NLL near 0 for every token; for `alien` ones (row → token) outside
    of it, and 5 nats."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i, row in enumerate(rows):
        n = len(row.ids) - row.start
        states = torch.zeros(3, n, WIDTH)
        states[:, :, :4] = torch.randn(3, n, 4, generator=generator)
        nll = 0.1 * torch.rand(n, generator=generator)
        if alien and i in alien:
            states[:, alien[i]] = torch.eye(WIDTH)[4 + i % (WIDTH - 4)]
            nll[alien[i]] = 5.0
        out.append(HeadStates(*states, nll))
    return out


@pytest.fixture
def rows(world, chat):
    return {name: encode_all(chat, getattr(world, name)) for name in ("forget", "retain", "holdout")}


def start_of(rows, alien, order=None) -> Start:
    known = dict(zip(rows["forget"], drawn(rows["forget"], alien=alien, seed=1), strict=True))
    known |= dict(zip(rows["retain"], drawn(rows["retain"], seed=2), strict=True))
    retain = rows["retain"] if order is None else [rows["retain"][i] for i in order]
    return Start(
        forget=rows["forget"], retain=retain, likelihood=lambda r, n: (), head_states=lambda asked: [known[r] for r in asked]
    )


def free_tokens(rows) -> dict[int, int]:
    """Of each forget row the first scored token that repeats no word of the prompt."""
    return {i: int((~copied(row)).nonzero()[0]) for i, row in enumerate(rows["forget"])}


def test_new_tokens_have_the_largest_importance_of_their_rows(rows):
    alien = free_tokens(rows)
    made = Novelty().prepare(start_of(rows, alien))
    for i, row in enumerate(rows["forget"]):
        values = made.values[row]
        assert int(values.argmax()) == alien[i]
        assert float(values[alien[i]]) > 0.9
        assert bool(((values >= 0) & (values <= 1)).all())


def test_no_order_of_the_retain_rows_changes_it(rows):
    order = torch.randperm(len(rows["retain"]), generator=torch.Generator().manual_seed(5)).tolist()
    plain, turned = (Novelty().prepare(start_of(rows, free_tokens(rows), o)) for o in (None, order))
    for row in rows["forget"]:
        torch.testing.assert_close(plain.values[row], turned.values[row], rtol=1e-3, atol=1e-4)


def test_of_unseen_rows_as_large_a_share_is_selected_whatever_their_nll(rows):
    """Their NLL is the level that is asked for: tokens selected by it would be the unlikely ones alone."""
    start, selected = start_of(rows, free_tokens(rows)), []
    for most in (0.1, 9.0):
        unseen = [h._replace(nll=most * torch.rand(len(h.nll))) for h in drawn(rows["holdout"], alien={0: 0, 1: 0}, seed=3)]
        known = dict(zip(rows["holdout"], unseen, strict=True))

        def states(asked, known=known):
            return [known[r] if r in known else start.head_states([r])[0] for r in asked]

        made = Novelty(surprise=0.002).prepare(replace(start, holdout=rows["holdout"], head_states=states))
        chosen = {name: torch.cat([made.values[r] for r in rows[name]]) > 0.5 for name in ("forget", "holdout")}
        shares = {name: float(each.float().mean()) for name, each in chosen.items()}
        assert 0 < shares["holdout"] == pytest.approx(shares["forget"], abs=0.02)
        selected.append(torch.cat([made.values[r] for r in rows["holdout"]]))
    assert torch.equal(*selected)


def test_the_tests_are_what_the_docstring_says(rows):
    """Leverage by an explicit inverse, the vote and the p-values by loops over single tokens."""
    start, some = start_of(rows, free_tokens(rows)), rows["retain"][:6]
    found = novelty(Novelty(nearest=3), start, some, rows["forget"][:2])
    ours, held = ([torch.cat(x) for x in zip(*start.head_states(part), strict=True)] for part in (rows["forget"][:2], some))
    unit = torch.nn.functional.normalize
    x, keys = (torch.cat([unit(s, dim=-1) for s in part[:3]], 1).double() for part in (ours, held))
    moment = keys.T @ keys / len(keys)
    inverse = torch.linalg.inv(moment + 1e-3 * moment.diagonal().mean() * torch.eye(len(moment)))
    torch.testing.assert_close(found.leverage, ((x @ inverse) * x).sum(1).float(), rtol=1e-3, atol=1e-4)
    followers = [i for row in some for i in row.ids[row.start :]]
    owner = [b for b, row in enumerate(some) for _ in row.offsets]
    ids = [i for row in rows["forget"][:2] for i in row.ids[row.start :]]

    def vote(state, token, barred) -> float:
        cosine = {
            j: float(unit(state, dim=0) @ unit(held[0][j], dim=0)) for j in range(len(followers)) if owner[j] != barred
        }
        near = sorted(cosine, key=lambda j: -cosine[j])[:3]
        weights = torch.softmax(torch.tensor([(cosine[j] - 1) / 0.05 for j in near]), 0)
        return max(1e-3, sum(float(w) for w, j in zip(weights, near, strict=True) if followers[j] == token))

    votes = [vote(s, t, None) for s, t in zip(ours[0], ids, strict=True)]
    plain = torch.tensor([float(s.norm()) > 0 and bool(s[:4].any()) for s in ours[0]])  # an alien state is as far from all
    torch.testing.assert_close(found.vote[plain], torch.tensor(votes)[plain], rtol=1e-3, atol=1e-3)
    theirs = [vote(held[0][j], followers[j], owner[j]) for j in range(len(followers))]
    own = ((keys @ inverse) * keys).sum(1)
    left_out = (own / (1 - own / len(own))).tolist()

    def rarity(value: float, others: list[float]) -> float:
        """−log of the share of the others that are not below, with half a count."""
        below = sum(other < value for other in others)
        return -float(torch.log1p(torch.tensor(-(below + 0.5) / (len(others) + 1))))

    for i, (said, statistic) in enumerate(zip(found.copied.tolist(), found.statistic.tolist(), strict=True)):
        leverage = 0.0 if said else rarity(float(found.leverage[i]), left_out)
        expected = 2 * leverage + rarity(float(ours[3][i]), held[3].tolist()) + rarity(-votes[i], [-v for v in theirs])
        assert not plain[i] or statistic == pytest.approx(expected, rel=0.05, abs=0.1)  # ties and rounding move a count


def test_words_of_the_prompt_are_copied(rows):
    row = rows["forget"][0]
    marks = copied(row)
    for (a, b), mark in zip(row.offsets, marks.tolist(), strict=True):
        said = repeated(row.example.answer, row.example.question)
        assert mark == any(a < end and begin < b for begin, end in said)
    assert bool(marks.any())
    assert not bool(marks.all())


def test_words_are_found_in_every_script():
    assert [w for *_, w in words("Where's Ａnna's 2nd house?")] == ["where", "s", "anna", "s", "2nd", "house"]
    assert [w for *_, w in words("她住在北京。")] == list("她住在北京")
    assert repeated("Anna lives in Rome.", "Where does ANNA live?") == [(0, 4)]
    assert repeated("安娜住在罗马。", "安娜住在哪里？") == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize(
    ("name", "value"), [("surprise", 0.0), ("surprise", 1.0), ("ridge", 0.0), ("rows", 0), ("nearest", 0)]
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"importance.{name}"):
        replace(Novelty(), **{name: value})


def test_states_are_held_for_a_few_rows_at_a_time_and_for_so_many_retain_tokens(rows, monkeypatch):
    """However rows are grouped the values are the same; long retain rows are taken as far as they fit, at least one."""
    start = start_of(rows, free_tokens(rows))
    whole = Novelty().prepare(start)
    monkeypatch.setattr("deleatur.importance.novelty.ROWS", 2)
    for row, values in Novelty().prepare(start).values.items():
        torch.testing.assert_close(values, whole.values[row], rtol=1e-4, atol=1e-5)
    sizes = [len(r.ids) - r.start for r in rows["retain"]]
    assert within(rows["retain"], sum(sizes[:3])) == rows["retain"][:3]
    assert within(rows["retain"], 1) == rows["retain"][:1]
