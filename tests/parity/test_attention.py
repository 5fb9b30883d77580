"""Attention over sequences end to end against its plain definition, on shapes that nothing divides."""

from __future__ import annotations

import pytest
import torch
import transformers
from test_families import SMALL, make
from torch.nn.functional import scaled_dot_product_attention

from deleatur.modeling.attention_interface import packed, set_packed_attention
from deleatur.modeling.packed_attention import Pack, Scoring, make_pack, packed_attention, share
from deleatur.modeling.token_model import TokenModel

WIDTH = 8
LENGTHS = [(1,), (257,), (5, 5, 5), (1, 257, 2, 256, 1), (1, 1), (300, 3)]
HEADS = [(3, 3), (3, 1), (6, 2)]  # query heads, key-value heads: groups of 1 and of 3


def pack(lengths: tuple[int, ...], window: int | None = None) -> Pack:
    """Of sequences that have nothing in common."""
    return make_pack([[1000 * i + t for t in range(n)] for i, n in enumerate(lengths)], window=window)


def draw(lengths: tuple[int, ...], heads: tuple[int, int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key, value, and how much each number of the output counts; as the decoder lays them, scores of about ±4."""
    generator = torch.Generator().manual_seed(sum(lengths))
    total, (h, k) = sum(lengths), heads
    return [(2 * torch.randn(1, total, n, WIDTH, generator=generator)).to(dtype).transpose(1, 2) for n in (h, k, k)] + [
        torch.randn(1, total, h, WIDTH, generator=generator).to(dtype)
    ]


def plain(query, key, value, pack: Pack, *, scaling=WIDTH**-0.5, softcap=None):
    """The docstring's lines, one sequence after the other, with repeated heads."""
    group, out = query.shape[1] // key.shape[1], []
    for q, k, v in zip(*(x.split(pack.tree.new_tokens, 2) for x in (query, key, value)), strict=True):
        scores = q @ k.repeat_interleave(group, 1).transpose(-1, -2) * scaling
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        n = q.shape[2]
        p = scores.masked_fill(~pack.seen[:n, :n], -torch.inf).softmax(-1)
        out.append((p @ v.repeat_interleave(group, 1)).transpose(1, 2))
    return torch.cat(out, 1)


def sdpa(query, key, value, pack: Pack):
    """torch's own attention, one sequence after the other."""
    each = zip(*(x.split(pack.tree.new_tokens, 2) for x in (query, key, value)), strict=True)
    return torch.cat(
        [scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2) for q, k, v in each], 1
    )


def run(attention, drawn, pack: Pack, **options) -> list[torch.Tensor]:
    """Output, and gradients in query, key and value."""
    *inputs, counts = drawn
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    if attention is packed_attention:
        scaling = options.get("scaling", inputs[0].shape[-1] ** -0.5)
        options = {"how": Scoring(scaling, options.get("softcap"))} if options else {}
    out = attention(*inputs, pack, **options)
    (out * counts).sum().backward()
    return [out.detach(), *(x.grad for x in inputs)]


@pytest.mark.parametrize(
    "options", [{}, {"scaling": 0.1}, {"softcap": 2.0}, {"window": 3}, {"window": 3, "softcap": 2.0}], ids=str
)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_sequence_is_attended_to_alone_as_the_plain_lines_do(lengths, heads, options):
    looks = pack(lengths, options.get("window"))
    rest = {name: value for name, value in options.items() if name != "window"}
    drawn = draw(lengths, heads)
    for ours, naive in zip(run(packed_attention, drawn, looks, **rest), run(plain, drawn, looks, **rest), strict=True):
        torch.testing.assert_close(ours, naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_it_is_no_further_from_the_truth_than_torchs_own(lengths, heads, dtype):
    """Truth is the plain lines in fp64 on the same (rounded) numbers, the error a root mean square; a tenth more is allowed
    where both are the same rounding of the output and its sums lie in another order."""
    drawn, looks = draw(lengths, heads, dtype), pack(lengths)
    truth = run(plain, [x.double() for x in drawn], looks)
    ours, theirs = run(packed_attention, drawn, looks), run(sdpa, drawn, looks)
    for name, mine, peer, true in zip(("out", "query", "key", "value"), ours, theirs, truth, strict=True):
        assert mine.dtype == dtype
        error, other = (float((x.double() - true).square().mean().sqrt()) for x in (mine, peer))
        least = 2e-7 if dtype == torch.float32 else 0  # of the size of one rounding: not told apart
        assert error <= 1.1 * other + least * float(true.square().mean().sqrt()), (name, error, other)


def test_value_heads_may_have_another_width():
    query, key, value, _ = draw((3, 4), (6, 2))
    seen = packed_attention(query, key, value[..., :5], pack((3, 4)))
    torch.testing.assert_close(seen, plain(query, key, value, pack((3, 4)))[..., :5])


def test_dropout_drops_probabilities():
    """With everything dropped nothing is left; half dropped, the survivors count double and the mean stays."""
    query, key, value, _ = draw((40,) * 50, (6, 2))
    some = pack((40,) * 50)
    assert not packed_attention(query, key, value, some, Scoring(5**-0.5, dropout=1.0)).any()
    torch.manual_seed(0)
    half = packed_attention(query, key, torch.ones_like(value), some, Scoring(5**-0.5, dropout=0.5))
    assert float(half.mean()) == pytest.approx(1, abs=0.02)
    assert float(half.std()) > 0.1


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_outside_a_pack_the_model_attends_as_before_bit_for_bit(family):
    """Forward with a mask and generation behind left padding, with torch's attention or (Gemma 2) the family's own."""
    lm = make(family)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 401, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, :7] = mask[2, :19] = 0

    def answers():
        lm.generation_config.pad_token_id = 0
        with torch.no_grad():
            return lm(ids, attention_mask=mask).logits, lm.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=30, eos_token_id=None
            )

    before, own = answers(), lm.config._attn_implementation
    assert set_packed_attention(lm)
    assert lm.config._attn_implementation == f"packed_{own}"
    for ours, theirs in zip(answers(), before, strict=True):
        assert torch.equal(ours, theirs)
    assert not set_packed_attention(lm, False)
    assert lm.config._attn_implementation == own


def test_an_attention_that_the_user_chose_is_unchanged():
    lm = make("Llama")
    lm.set_attn_implementation("flex_attention")
    assert not set_packed_attention(lm)
    assert lm.config._attn_implementation == "flex_attention"


def test_a_saved_model_does_not_record_our_attention(tmp_path):
    lm = make("Llama")
    TokenModel(lm).prepare()
    lm.save_pretrained(tmp_path)
    assert "packed" not in (tmp_path / "config.json").read_text()
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_an_error_inside_a_pack_removes_the_pack():
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)).eval()
    assert set_packed_attention(lm)
    tree = share([[0, 1], [2, 3, 4]])
    with pytest.raises(KeyError), packed(tree):
        raise KeyError
    ids = torch.arange(5)[None]
    with torch.no_grad():
        alone, between = lm(ids).logits, lm(ids).logits
        with packed(tree):
            lm(ids)
    assert torch.equal(alone, between)
