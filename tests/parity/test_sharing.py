"""Rows that begin alike, run once: the numbers and gradients of one row at a time, and no token run twice."""

from __future__ import annotations

import random

import pytest
import torch
from test_families import make
from test_packing import EVERYTHING, gradients, padded

from deleatur.data.batches import collate
from deleatur.modeling.loading import checkpoint_activations
from deleatur.modeling.packed_attention import share
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

rng = random.Random(3)


def text(length: int) -> tuple[int, ...]:
    return tuple(rng.randrange(2, 401) for _ in range(length))


SYSTEM, LONG = text(11), text(257)
QUESTIONS = [SYSTEM + text(n) for n in (1, 9, 14)]
PAIRS = {  # prompt and answer of each row
    "an answer each": [(q, text(12)) for q in QUESTIONS],
    "two answers": [(q, text(n)) for q in QUESTIONS for n in (3, 7)],
    "seven answers": [(QUESTIONS[1], text(n)) for n in (1, 1, 30, 5, 12, 2, 4)],
    "a long prompt": [(LONG, text(1)), (LONG, text(3)), (LONG[:256], text(2)), (text(1), text(257))],
    "a prompt of one token": [((5,), text(1)), ((5,), text(257)), ((5,), (7,)), ((6,), text(2))],
    "answers that begin alike": [(QUESTIONS[0], a + b) for a in (text(3), text(5)) for b in (text(2), text(4))],
    "one row the beginning of another": [(QUESTIONS[0], LONG[:n]) for n in (2, 9, 4)],
    "the same row twice": [(QUESTIONS[0], LONG[:5])] * 2 + [(SYSTEM, QUESTIONS[0][11:] + LONG[:5])],
}


def rows(shape: str) -> list[Encoded]:
    example = Example(id=shape, prompt=(("user", "?"),), answer="a")
    return [
        Encoded(example=example, ids=prompt + answer, start=len(prompt), offsets=((0, 1),) * len(answer))
        for prompt, answer in PAIRS[shape]
    ]


@pytest.mark.parametrize("shape", PAIRS)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2", "Mixtral"])
def test_shared_rows_have_the_numbers_of_one_row_at_a_time(family, shape):
    lm, some = make(family), rows(shape)
    model = TokenModel(lm).prepare()
    assert model.packs
    with torch.no_grad():
        for state in ("own", "predicting"):
            ours = model(collate(some), state=state, **EVERYTHING)
            alone = [padded(lm)(collate([row]), state=state, **EVERYTHING) for row in some]
            torch.testing.assert_close(ours.nll, torch.cat([a.nll for a in alone]), rtol=1e-5, atol=1e-5)
            for name in ("hidden", "logits", "layer"):
                theirs = torch.cat([getattr(a, name) for a in alone])
                torch.testing.assert_close(getattr(ours, name), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", PAIRS)
@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_gradients_are_those_of_the_padded_batch(family, shape):
    """A token that stands for several rows takes the gradients of all of them."""
    lm, some = make(family), collate(rows(shape))
    ours, theirs = gradients(TokenModel(lm).prepare(), some), gradients(padded(lm), some)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_checkpointing_changes_no_gradient():
    lm, some = make("Llama").train(), collate(rows("seven answers"))
    kept = gradients(TokenModel(lm).prepare(), some)
    checkpoint_activations(lm)
    assert torch.equal(gradients(TokenModel(lm).prepare(), some), kept)


@pytest.mark.parametrize("shape", PAIRS)
def test_a_tree_holds_each_beginning_once_and_every_row_completely(shape):
    """Each row is found again by its places and by its pieces; the tree has as many tokens as the rows have beginnings."""
    ids = [row.ids for row in rows(shape)]
    tree = share(ids)
    assert (
        len(tree.ids)
        == sum(tree.new_tokens)
        == sum(tree.pieces)
        == len({row[: n + 1] for row in ids for n in range(len(row))})
    )
    starts = [sum(tree.pieces[:i]) for i in range(len(tree.pieces))]
    for row, places, path in zip(ids, tree.places, tree.paths, strict=True):
        assert tree.ids[places].tolist() == list(row)
        assert tree.at[places].tolist() == list(range(len(row)))
        assert [starts[i] + k for i in path for k in range(tree.pieces[i])] == places.tolist()


def test_only_the_trees_tokens_are_run():
    """Seven answers of 55 tokens to one prompt of 20."""
    lm, seen = make("Llama"), []
    model = TokenModel(lm).prepare()
    lm.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].shape[1]))
    model(collate(rows("seven answers")))
    assert seen == [20 + 55]
