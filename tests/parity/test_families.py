"""TokenModel against the model's own forward, family by family: same function, only where tokens are scored."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from deleatur.data.batches import collate
from deleatur.errors import ModelError
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded, Example

SMALL = {
    "vocab_size": 401,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
GPT = {"vocab_size": 401, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
MIXED = {"num_experts_per_tok": 2, "sliding_window": None}
FAMILIES = {  # sliding windows are narrower than the longest row, soft caps and scales far from doing nothing
    "Llama": SMALL,
    "Mistral": SMALL | {"sliding_window": 16},
    "Qwen3": SMALL | {"head_dim": 8},
    "Gemma2": SMALL | {"head_dim": 8, "sliding_window": 16, "final_logit_softcapping": 0.5},
    "Gemma3": SMALL | {"head_dim": 8, "sliding_window": 16},
    "Phi3": SMALL,
    "Olmo2": SMALL,
    "GPT2": GPT,
    "GPTJ": GPT | {"rotary_dim": 4},
    "GPTNeoX": SMALL,
    "Mixtral": SMALL | MIXED | {"num_local_experts": 4},
    "Qwen3Moe": SMALL | MIXED | {"num_experts": 4, "moe_intermediate_size": 24, "head_dim": 8},
    "Granite": SMALL | {"logits_scaling": 8.0},
    "Cohere": SMALL | {"logit_scale": 0.25},
}
SHAPES = ((257, 1), (1, 1), (1, 30), (7, 100), (64, 3))  # scored tokens, tokens before them


def make(family: str, **more: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    name = f"{family}Text" if family == "Gemma3" else family
    config = getattr(transformers, f"{name}Config")(**FAMILIES[family] | more)
    return getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(family, f"{family}ForCausalLM"))(config).eval()


def rows() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for scored, before in SHAPES:
        ids = torch.randint(2, 401, (scored + before,), generator=generator)
        example = Example(id=str(scored), prompt=(("user", "?"),), answer="a")
        made.append(Encoded(example=example, ids=tuple(ids.tolist()), start=before, offsets=((0, 1),) * scored))
    return made


@torch.no_grad()
def truth(lm: transformers.PreTrainedModel, padded: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL and last hidden state of scored tokens by the model's own forward over ids with a mask, shifted by one."""
    length = max(len(r.ids) for r in padded)
    ids = torch.tensor([[*r.ids, *[0] * (length - len(r.ids))] for r in padded])
    mask = torch.tensor([[1] * len(r.ids) + [0] * (length - len(r.ids)) for r in padded])
    out = lm(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    nll = cross_entropy(out.logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    places = [(b, t) for b, r in enumerate(padded) for t in range(r.start, len(r.ids))]
    return (
        torch.stack([nll[b, t - 1] for b, t in places]),
        torch.stack([out.hidden_states[-1][b, t] for b, t in places]),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_nll_and_states_are_those_of_the_models_own_forward(family):
    """Padded or one row at a time, ours and theirs are the same four numbers."""
    lm, some = make(family), rows()
    model = TokenModel(lm).prepare()
    with torch.no_grad():
        ours, alone = model(collate(some)), [model(collate([row])) for row in some]
    nll, states = truth(lm, some)
    singly = [truth(lm, [row]) for row in some]
    assert nll.std() > 0.1, "the model must tell tokens apart"
    for name, seen in {
        "padded, ours": ours.nll,
        "single, ours": torch.cat([a.nll for a in alone]),
        "single, theirs": torch.cat([n for n, _ in singly]),
    }.items():
        torch.testing.assert_close(seen, nll, rtol=1e-5, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    torch.testing.assert_close(ours.hidden, states, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([a.hidden for a in alone]), states, rtol=1e-4, atol=1e-4)
    assert ours.sequence.bincount().tolist() == [scored for scored, _ in SHAPES]


@pytest.mark.parametrize("family", ["Llama", "Gemma2", "GPT2"])
def test_statistics_and_logits_on_request_change_no_number(family):
    """A hit is the arg max of its logits; NLL is −log softmax of the same logits."""
    model, batch = TokenModel(make(family)).prepare(), collate(rows())
    with torch.no_grad():
        bare, full = model(batch), model(batch, statistics=True, logits=True)
    assert bare.statistics is None
    assert bare.logits is None
    torch.testing.assert_close(full.nll, bare.nll, rtol=1e-6, atol=1e-6)
    target = batch.ids.flatten()[batch.scored]
    assert torch.equal(full.statistics.hit, full.logits.argmax(-1) == target)
    torch.testing.assert_close(full.nll, -full.logits.log_softmax(-1)[range(len(target)), target])


def test_the_predicting_state_is_the_own_state_of_the_token_before():
    """Within a row, the state that predicts scored token k+1 is scored token k's own state."""
    model, batch = TokenModel(make("Llama")).prepare(), collate(rows())
    with torch.no_grad():
        own, before = model(batch), model(batch, state="predicting")
    same_row = own.sequence[1:] == own.sequence[:-1]
    assert torch.equal(before.hidden[1:][same_row], own.hidden[:-1][same_row])
    assert torch.equal(before.nll, own.nll)


def test_the_own_state_sees_its_token_and_the_predicting_state_does_not():
    """Another last token moves its own state and leaves the one before as it was."""
    model, row = TokenModel(make("Llama")).prepare(), rows()[1]
    other = Encoded(example=row.example, ids=(row.ids[0], (row.ids[1] + 1) % 401), start=1, offsets=row.offsets)
    with torch.no_grad():
        a, b = (model(collate([r]), state="predicting") for r in (row, other))
        c, d = (model(collate([r])) for r in (row, other))
    assert torch.equal(a.hidden, b.hidden)
    assert not torch.allclose(c.hidden, d.hidden, atol=1e-2)


class Louder(transformers.LlamaForCausalLM):
    """A family that multiplies its logits by a number of which no setting tells."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits * 1.5
        return out


def test_a_family_that_does_something_unknown_after_its_decoder_is_refused():
    lm = Louder(transformers.LlamaConfig(**SMALL))
    with pytest.raises(ModelError, match="Louder does something between its decoder and its logits"):
        TokenModel(lm).prepare()


def test_a_model_without_a_language_model_head_is_refused():
    with pytest.raises(ModelError, match="LlamaModel has no language-model head"):
        TokenModel(transformers.LlamaModel(transformers.LlamaConfig(**SMALL))).prepare()


@pytest.mark.parametrize("training", [True, False])
def test_inspecting_the_head_changes_neither_mode_nor_gradients(training):
    lm = make("Llama").train(training)
    TokenModel(lm).prepare()
    assert lm.training is training
    assert all(p.grad is None for p in lm.parameters())


def test_width_is_that_of_the_hidden_state():
    model = TokenModel(make("GPT2")).prepare()
    assert model.width == 32
    assert model(collate(rows()[:1])).hidden.shape == (257, 32)


def test_a_model_whose_own_forward_fails_is_refused(monkeypatch):
    """As one whose config names fewer layers than it has."""
    lm = make("Llama")
    monkeypatch.setattr(lm, "forward", lambda **given: [][0])
    with pytest.raises(ModelError, match=r"cannot run four tokens \(IndexError: .*; fix its config\.json"):
        TokenModel(lm)
