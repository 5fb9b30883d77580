"""Leverage: what the retain rows do not span matters, in closed form and whatever the order of the rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from deleatur.data.encode import encode_all
from deleatur.data.words import repeated, words
from deleatur.errors import ConfigError
from deleatur.importance import Leverage
from deleatur.importance.leverage import by_word, copied
from deleatur.types import Start, Transitions

WIDTH = 12


def drawn(rows, *, alien: dict[int, set[int]] | None = None, seed: int = 0) -> list[Transitions]:
    """States within a plane of four directions for every token, and for `alien` ones (row → tokens) outside of it."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for i, row in enumerate(rows):
        n = len(row.ids) - row.start
        states = torch.zeros(2, n, WIDTH)
        states[:, :, :4] = torch.randn(2, n, 4, generator=generator)
        for token in (alien or {}).get(i, ()):
            states[:, token] = torch.eye(WIDTH)[4 + (i + token) % (WIDTH - 4)]
        out.append(Transitions(before=states[0], at=states[1]))
    return out


@pytest.fixture
def rows(world, chat):
    return {name: encode_all(chat, getattr(world, name)) for name in ("forget", "retain", "holdout")}


def start_of(rows, alien, order=None) -> Start:
    known = dict(zip(rows["forget"], drawn(rows["forget"], alien=alien, seed=1), strict=True))
    known |= dict(zip(rows["retain"], drawn(rows["retain"], seed=2), strict=True))
    retain = rows["retain"] if order is None else [rows["retain"][i] for i in order]
    return Start(
        forget=rows["forget"], retain=retain, likelihood=lambda r, n: (), transitions=lambda asked: [known[r] for r in asked]
    )


def free_token(row) -> int:
    """The first scored token that repeats no word of the prompt."""
    return int((~copied(row)).nonzero()[0])


def test_tokens_outside_of_the_retain_span_are_selected_and_all_others_are_not(rows):
    alien = {i: {free_token(row)} for i, row in enumerate(rows["forget"])}
    made = Leverage(quantile=0.99).prepare(start_of(rows, alien))
    for row in rows["forget"]:
        token = free_token(row)
        assert float(made.values[row][token]) > 0.99
        same_word = by_word(torch.eye(len(row.offsets))[token], row) > 0
        assert float(made.values[row][~same_word].max()) < 0.7


def test_no_order_of_the_retain_rows_changes_it(rows):
    alien = {i: {free_token(row)} for i, row in enumerate(rows["forget"])}
    order = torch.randperm(len(rows["retain"]), generator=torch.Generator().manual_seed(5)).tolist()
    plain, turned = (Leverage().prepare(start_of(rows, alien, o)) for o in (None, order))
    for row in rows["forget"]:
        torch.testing.assert_close(plain.values[row], turned.values[row], rtol=1e-4, atol=1e-5)


def test_it_is_the_quadratic_form_that_its_docstring_says(rows):
    """x·(C + λI)⁻¹·x by an explicit inverse, for tokens that are words of their own and not copied."""
    start = start_of(rows, {0: {free_token(rows["forget"][0])}})
    keys = lambda t: torch.cat([torch.nn.functional.normalize(s, dim=-1) for s in t], 1).double()  # noqa: E731
    retain = torch.cat([keys(t) for t in start.transitions(rows["retain"])])
    moment = retain.T @ retain / len(retain)
    inverse = torch.linalg.inv(moment + 1e-3 * moment.diagonal().mean() * torch.eye(2 * WIDTH))
    own = ((retain @ inverse) * retain).sum(1)
    threshold = (own / (1 - own / len(retain))).float().quantile(0.9).log()
    made = Leverage().prepare(start)
    for row, t in zip(rows["forget"], start.transitions(rows["forget"]), strict=True):
        x = keys(t)
        logs = by_word(((x @ inverse) * x).sum(1).log().float(), row)
        expected = torch.sigmoid(8 * (logs - threshold)) * ~copied(row)
        torch.testing.assert_close(made.values[row], expected, rtol=1e-3, atol=1e-4)


def test_words_of_the_prompt_are_copied_and_a_word_counts_as_its_most_alien_token(rows):
    row = rows["forget"][0]
    question, answer = row.example.question, row.example.answer
    marks = copied(row)
    for (a, b), mark in zip(row.offsets, marks.tolist(), strict=True):
        said = any(a < end and begin < b for begin, end in repeated(answer, question))
        assert mark == said
    assert bool(marks.any())
    assert not bool(marks.all())
    values = torch.arange(float(len(row.offsets)))
    widened = by_word(values, row)
    assert bool((widened >= values).all())
    for begin, end, _ in words(answer):
        touched = [i for i, (a, b) in enumerate(row.offsets) if a < end and begin < b]
        assert {float(widened[i]) for i in touched} == {float(max(touched))}


def test_words_are_found_in_every_script():
    assert [w for *_, w in words("Where's Ａnna's 2nd house?")] == ["where", "s", "anna", "s", "2nd", "house"]
    assert [w for *_, w in words("她住在北京。")] == list("她住在北京")
    assert repeated("Anna lives in Rome.", "Where does ANNA live?") == [(0, 4)]
    assert repeated("安娜住在罗马。", "安娜住在哪里？") == [(0, 1), (1, 2), (2, 3), (3, 4)]


@pytest.mark.parametrize(("name", "value"), [("quantile", 0.0), ("quantile", 1.0), ("ridge", 0.0), ("rows", 0)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"importance.{name}"):
        replace(Leverage(), **{name: value})
