"""Rows kept apart by positions that start anew, as varlen kernels read them: here through torch's attention under a mask
that transformers makes from the same positions, against one row at a time."""

from __future__ import annotations

import warnings

import pytest
import torch
from test_families import FAMILIES, make
from test_packing import EVERYTHING, LENGTHS, batch, gradients, padded
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from deleatur.commands.evaluator import precision_of
from deleatur.data.batches import collate
from deleatur.modeling.attention_interface import set_packed_attention
from deleatur.modeling.decoder import probe_texts
from deleatur.modeling.generation import greedy
from deleatur.modeling.loading import checkpoint_activations
from deleatur.modeling.token_model import TokenModel


def by_positions(lm, *names: str) -> TokenModel:
    """What `enable_gpu_kernels` does on a GPU, with other kernels."""
    model = TokenModel(lm).prepare()
    set_packed_attention(lm, False)
    model.decoder.packs = False
    with torch.no_grad(), model.decoder.probing() as probe:
        model.decoder._pack_by_positions(names or ["sdpa"], probe_texts(probe), model.decoder._alone(probe_texts(probe)))
    return model


def alone(lm, some, **asked):
    return [padded(lm)(collate([row]), **asked) for row in some.rows]


def shapes_seen(lm) -> list[tuple[int, ...]]:
    seen: list[tuple[int, ...]] = []
    lm.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(tuple(ids[0].shape)))
    return seen


@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in FAMILIES for a in ("sdpa", "eager") if (f, a) != ("Gemma2", "sdpa")],  # which has no soft cap
)
def test_rows_end_to_end_have_the_numbers_of_one_row_at_a_time(family, attention):
    lm, some = make(family), batch("ugly")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = by_positions(lm, attention)
    assert model.notes == [f"Rows go end to end through {attention}"]
    seen = shapes_seen(lm)
    with torch.no_grad():
        for state in ("own", "predicting"):
            ours, theirs = model(some, state=state, **EVERYTHING), alone(lm, some, state=state, **EVERYTHING)
            assert seen[0] == (1, 400), "every token once and nothing beside"
            for name in ("nll", "hidden", "logits", "layer"):
                truth = torch.cat([getattr(one, name) for one in theirs])
                torch.testing.assert_close(getattr(ours, name), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", LENGTHS)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_gradients_are_those_of_the_padded_batch(family, shape):
    """The padded batch needs no mask: what lies behind a row's end cannot be seen from within it."""
    lm, some = make(family), batch(shape)
    theirs = gradients(padded(lm), some)
    ours = gradients(by_positions(lm, "eager" if family == "Gemma2" else "sdpa"), some)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_checkpointing_changes_no_gradient():
    lm = make("Llama").train()
    model = by_positions(lm)
    kept = gradients(model, batch("ugly"))
    checkpoint_activations(lm)
    assert torch.equal(gradients(model, batch("ugly")), kept)


def test_a_batch_without_rows_gives_nothing_and_takes_gradients():
    tokens = by_positions(make("Llama"))(collate([]))
    assert tokens.nll.shape == (0,)
    tokens.nll.sum().backward()


def test_an_attention_that_lets_rows_see_each_other_is_not_taken():
    """One that is causal over the whole row of tokens gives a text other states than it has alone."""
    lm = make("Llama")
    sdpa = AttentionInterface()["sdpa"]
    AttentionInterface.register("leaky", lambda module, q, k, v, mask, **rest: sdpa(module, q, k, v, None, **rest))
    AttentionMaskInterface.register("leaky", sdpa_mask)
    with pytest.warns(UserWarning, match=r"cannot be run without padding through leaky \(states differ by"):
        model = by_positions(lm, "leaky", "sdpa")
    assert lm.config._attn_implementation == "sdpa"
    assert model.notes == ["Rows go end to end through sdpa"]
    with pytest.warns(UserWarning, match="through unheard of"):
        model = by_positions(lm, "unheard of")
    seen = shapes_seen(lm)
    model(batch("ugly"))
    assert seen == [(5, 258)], "padded, as before"


def test_generation_and_another_precision_use_padded_rows():
    """What varlen kernels cannot: a cache of rows of different lengths, and fp32."""
    lm = make("Llama").bfloat16()
    model = by_positions(lm, "eager")
    seen, used = shapes_seen(lm), []
    lm.model.layers[0].register_forward_pre_hook(lambda *_: used.append(lm.config._attn_implementation))
    with torch.no_grad():
        model(batch("ugly"))
        with precision_of(model, "fp32"):
            model(batch("ugly"))
        with precision_of(model, "bf16"):
            model(batch("ugly"))
        assert seen == [(1, 400), (5, 258), (1, 400)]
        greedy(model, [(5, 6), (7,)], ends=(0,), new_tokens=2)
    assert used[:4] == ["eager", "sdpa", "eager", "sdpa"]
    assert lm.config._attn_implementation == "eager"
