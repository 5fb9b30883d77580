"""Rows end to end against the padded batch: the same numbers and gradients, family by family, with nothing run in vain."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import transformers
from test_families import FAMILIES, SMALL, make, rows

from deleatur.data.batches import collate
from deleatur.modeling.decoder import OtherStates
from deleatur.modeling.loading import add_adapters, checkpoint_activations
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora
from deleatur.types import Encoded, Example

EVERYTHING = {"statistics": True, "logits": True, "layer": 0}
LENGTHS = {  # tokens of forget and of retain rows, of which the first is never scored
    "ugly": ((258, 2), (31, 2, 107)),
    "one row": ((258,), ()),
    "equal": ((9, 9), (9, 9)),
    "no forget row": ((), (2, 300)),
    "no retain row": ((5, 17), ()),
}


def padded(lm: transformers.PreTrainedModel) -> TokenModel:
    model = TokenModel(lm).prepare()
    model.decoder.packs = False
    return model


def batch(shape: str):
    generator, made = torch.Generator().manual_seed(2), []
    for lengths in LENGTHS[shape]:
        ids = [torch.randint(2, 401, (n,), generator=generator).tolist() for n in lengths]
        example = Example(id=shape, prompt=(("user", "?"),), answer="a")
        made.append([Encoded(example=example, ids=tuple(i), start=1, offsets=((0, 1),) * (len(i) - 1)) for i in ids])
    return collate(*made)


def gradients(model: TokenModel, some) -> torch.Tensor:
    """Of a sum in which every token counts differently, all weights in one line."""
    tokens = model(some)
    (tokens.nll * torch.linspace(-1, 2, len(tokens.nll), dtype=tokens.nll.dtype)).sum().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    return torch.cat([torch.zeros(1) if g is None else g.flatten() for g in grads])


@pytest.mark.parametrize("shape", LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_gives_all_that_the_padded_batch_gives(family, shape):
    lm, some = make(family), batch(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = TokenModel(lm).prepare()
    assert model.packs
    with torch.no_grad():
        for state in ("own", "predicting"):
            ours, theirs = model(some, state=state, **EVERYTHING), padded(lm)(some, state=state, **EVERYTHING)
            for name in ("nll", "hidden", "logits", "layer"):
                torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-4)
            for mine, other in zip(ours.statistics, theirs.statistics, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
            assert torch.equal(ours.sequence, theirs.sequence)


@pytest.mark.parametrize("shape", LENGTHS)
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_gradients_are_those_of_the_padded_batch(family, shape):
    lm, some = make(family), batch(shape)
    ours, theirs = gradients(TokenModel(lm).prepare(), some), gradients(padded(lm), some)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_no_further_from_the_truth_than_those_of_the_padded_batch(dtype):
    """Truth is the padded batch in fp64 with the same (rounded) weights; a tenth more is another order of summing."""
    lm, some = make("Llama").to(dtype), batch("ugly")
    truth = gradients(padded(copy.deepcopy(lm).double()), some)
    error, other = (float((gradients(m, some).double() - truth).norm()) for m in (TokenModel(lm).prepare(), padded(lm)))
    assert error <= 1.1 * other


@pytest.mark.parametrize("rank", [None, 4])
def test_checkpointing_and_adapters_change_no_gradient(rank):
    """Activations are made again in the backward pass, when the pack is no longer being run."""
    lm = make("Llama")
    if rank:
        add_adapters(lm, Lora(rank=rank))
        for name, p in lm.named_parameters():  # away from the start, at which one factor is 0
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
    lm.train()
    kept, theirs = gradients(TokenModel(lm).prepare(), batch("ugly")), gradients(padded(lm), batch("ugly"))
    checkpoint_activations(lm)
    assert torch.equal(gradients(TokenModel(lm).prepare(), batch("ugly")), kept)
    assert float((kept - theirs).norm() / theirs.norm()) < 1e-5


def test_no_position_is_run_that_holds_no_token():
    """258 + 2 + 31 + 2 + 107 = 400 tokens, where the padded batch has 5 · 258."""
    lm, seen = make("Llama"), []
    model = TokenModel(lm).prepare()
    lm.get_input_embeddings().register_forward_hook(lambda _, ids, __: seen.append(ids[0].shape))
    model(batch("ugly"))
    assert seen == [(1, 400)]


def test_a_row_does_not_see_its_neighbours():
    """Other words before and behind it leave its numbers as they were, to the bit."""
    some, model = rows(), TokenModel(make("Llama")).prepare()
    first, last = (
        Encoded(example=r.example, ids=tuple((i + 1) % 401 for i in r.ids), start=r.start, offsets=r.offsets)
        for r in (some[0], some[4])
    )
    with torch.no_grad():
        a, b = model(collate(some)), model(collate([first, *some[1:4], last]))
    inner = (a.sequence >= 1) & (a.sequence <= 3)
    assert torch.equal(a.nll[inner], b.nll[inner])
    assert not torch.equal(a.nll[~inner], b.nll[~inner])


def test_a_batch_without_rows_gives_nothing_and_takes_gradients():
    """A process without a share still meets the others in the forward."""
    tokens = TokenModel(make("Llama")).prepare()(collate([]))
    assert tokens.nll.shape == (0,)
    tokens.nll.sum().backward()


UNPACKABLE = {  # positions from a mask; sinks beside the scores; a state that runs through
    "Bloom": {"vocab_size": 401, "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2},
    "GptOss": SMALL | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "Mamba": {"vocab_size": 401, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2},
}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [(f, d) for f in UNPACKABLE for d in (torch.float32, torch.bfloat16) if (f, d) != ("Mamba", torch.bfloat16)],
    ids=str,  # transformers' own Mamba does not run in bf16 on CPU
)
def test_a_family_that_cannot_be_packed_says_so_and_is_padded(family, dtype):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**UNPACKABLE[family])
    lm = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    lm.to(dtype)
    own, some = lm.config._attn_implementation, rows()
    with pytest.warns(UserWarning, match=f"{family}ForCausalLM cannot be run without padding") as caught:
        model = TokenModel(lm).prepare()
    assert sum("without padding" in str(w.message) for w in caught) == 1
    assert lm.config._attn_implementation == own
    with torch.no_grad():
        together, alone = model(collate(some)).nll, torch.cat([model(collate([row])).nll for row in some])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 if dtype == torch.float32 else 0.3)


def test_a_model_may_be_wrapped_twice():
    """The second finds the first's attention in place, and says the same."""
    lm, some = make("Llama"), batch("ugly")
    with torch.no_grad():
        assert torch.equal(TokenModel(lm).prepare()(some).nll, TokenModel(lm).prepare()(some).nll)
        assert torch.equal(TokenModel(copy.deepcopy(lm)).prepare()(some).nll, TokenModel(lm).prepare()(some).nll)


def test_tokens_that_blow_up_roundings_do_not_keep_a_family_from_being_packed():
    """One wording in which the states differ is chance; in all three it is another computation."""
    truth = torch.randn(39, 8)
    model = TokenModel(make("Llama")).prepare()
    off = truth.clone()
    off[:26] += 1
    model.decoder._check_same(off, truth)
    off[26:] += 1
    with pytest.raises(OtherStates, match="states differ by"):
        model.decoder._check_same(off, truth)
