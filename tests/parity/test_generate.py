"""Greedy answers in a batch against one row at a time without cache, family by family."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from test_families import make
from test_sharing import LONG, QUESTIONS, text

from deleatur.modeling.generation import greedy, sample
from deleatur.modeling.token_model import TokenModel

PROMPTS = [*QUESTIONS, QUESTIONS[1], text(1), LONG, LONG[:255], text(2), QUESTIONS[2] + text(3)]


@torch.no_grad()
def by_hand(lm: transformers.PreTrainedModel, prompt: tuple[int, ...], ends: frozenset[int], new_tokens: int) -> list[int]:
    said: list[int] = []
    while len(said) < new_tokens and not (said and said[-1] in ends):
        said.append(int(lm(input_ids=torch.tensor([[*prompt, *said]])).logits[0, -1].argmax()))
    return said


@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2", "Mixtral"])
def test_answers_are_those_of_one_row_at_a_time(family, packs):
    """Rows end at different times, at tokens that three of them say first, third and sixth: some leave the batch early."""
    lm = make(family)
    free = [by_hand(copy.deepcopy(lm), prompt, frozenset(), 9) for prompt in PROMPTS]
    ends = frozenset({free[0][2], free[1][5], free[4][0]})
    expected = [row[: next((i for i, token in enumerate(row) if token in ends), 9) + 1] for row in free]
    assert len({len(row) for row in expected}) > 1
    model = TokenModel(lm).prepare()
    assert model.packs
    model.decoder.packs = packs
    assert greedy(model, PROMPTS, ends=ends, new_tokens=9) == expected


def test_bf16_answers_are_those_of_one_row_at_a_time():
    lm = make("Llama").to(torch.bfloat16)
    model = TokenModel(lm).prepare()
    together = greedy(model, PROMPTS, ends={0}, new_tokens=3)
    assert together == [greedy(model, [prompt], ends={0}, new_tokens=3)[0] for prompt in PROMPTS]


def test_rows_that_have_ended_leave_the_batch_and_beginnings_are_run_once():
    """Four prompts of which two are the same; two of the four rows end at their first token, so that two go on."""
    lm, sizes = make("Llama"), []
    model = TokenModel(lm).prepare()
    prompts = [QUESTIONS[0], QUESTIONS[0], QUESTIONS[1], QUESTIONS[2]]
    first = [by_hand(lm, prompt, frozenset(), 1)[0] for prompt in prompts]
    assert first[0] not in first[2:]
    lm.get_input_embeddings().register_forward_hook(lambda _, ids, __: sizes.append(ids[0].shape[1]))
    greedy(model, prompts, ends={first[0]}, new_tokens=2)
    assert sizes == [11 + 1 + 9 + 14, 2]


@torch.no_grad()
def drawn_by_hand(lm, prompts, ends: frozenset[int], new_tokens: int, generator: torch.Generator) -> list[list[int]]:
    """Each token where the running sum of the probabilities passes a uniform number; a number a row that has not ended."""
    said: list[list[int]] = [[] for _ in prompts]
    running = [*range(len(prompts))]
    for _ in range(new_tokens):
        for b, u in zip(running, torch.rand(len(running), generator=generator, dtype=torch.float64).tolist(), strict=True):
            p = lm(input_ids=torch.tensor([[*prompts[b], *said[b]]])).logits[0, -1].softmax(-1).double()
            said[b].append(next(token for token, total in enumerate((p.cumsum(0) / p.sum()).tolist()) if total > u))
        running = [b for b in running if said[b][-1] not in ends]
        if not running:
            break
    return said


@pytest.mark.parametrize("family", ["Llama", "GPT2"])
def test_samples_are_those_of_one_row_at_a_time(family):
    """Four prompts seven times each: rows begin as one, part where another token is drawn, and end at other times."""
    lm = make(family)
    prompts = [prompt for prompt in PROMPTS[:4] for _ in range(7)]
    ends = frozenset(range(0, 101, 7))
    expected = drawn_by_hand(copy.deepcopy(lm), prompts, ends, 6, torch.Generator().manual_seed(3))
    assert len({len(row) for row in expected}) > 3
    model = TokenModel(lm).prepare()
    assert model.packs
    assert sample(model, prompts, ends=ends, new_tokens=6, generator=torch.Generator().manual_seed(3)) == expected


def test_what_equal_rows_begin_with_is_run_once():
    """Greedy answers to one prompt never part."""
    lm, sizes = make("Llama"), []
    model = TokenModel(lm).prepare()
    lm.get_input_embeddings().register_forward_hook(lambda _, ids, __: sizes.append(ids[0].shape[1]))
    answers = greedy(model, [QUESTIONS[0]] * 5, ends={-1}, new_tokens=3)
    assert sizes == [len(QUESTIONS[0]), 1, 1]
    assert answers == [answers[0]] * 5


def test_no_prompts_get_no_answers():
    assert greedy(TokenModel(make("Llama")).prepare(), [], ends={0}, new_tokens=3) == []


def test_a_mask_of_the_models_own_is_used_again_afterwards():
    """After an answer the model forwards and generates as it did before, bit for bit."""
    lm, ids = make("Llama"), torch.tensor([QUESTIONS[0]])
    with torch.no_grad():
        before = lm(ids).logits
        greedy(TokenModel(lm).prepare(), PROMPTS[:2], ends={0}, new_tokens=3)
        assert torch.equal(lm(ids).logits, before)


HYBRID = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4} | {
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
RECURRENT = {  # recurrent families and hybrids, whose norms take a gate, and one with a norm of its own
    "Mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "initializer_range": 0.3},
    "Mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}
    | {"expand": 2, "chunk_size": 8, "initializer_range": 0.3},
    "GraniteMoeHybrid": HYBRID
    | {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 24,
        "layer_types": ["mamba", "attention"],
    },
    "Bamba": HYBRID | {"attn_layer_indices": [1]},
}


def make_recurrent(family: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    ends = {"vocab_size": 401, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}
    config = getattr(transformers, f"{family}Config")(**RECURRENT[family] | ends)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_model_answers_as_one_row_at_a_time_and_its_layers_stay_its_own(family):
    """Nine prompts of five lengths; padding on the left would go through the state."""
    prompts = [text(n) for n in (3, 5, 5, 9, 12, 3, 17, 9, 9)]
    lm = make_recurrent(family)
    expected = [by_hand(copy.deepcopy(lm), prompt, frozenset(), 5) for prompt in prompts]
    model = TokenModel(lm).prepare()
    assert not model.packs
    assert greedy(model, prompts, ends={400}, new_tokens=5) == expected
