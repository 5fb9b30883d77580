"""Adapters that come with a model: PEFT's own numbers, one tokenizer everywhere, or a sentence that says why not."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from deleatur.errors import ModelError
from deleatur.modeling.adapters import find_adapter, merged, plain_model
from deleatur.modeling.loading import load, load_tokenizer, save
from deleatur.modeling.token_model import TokenModel

IDS = torch.arange(2, 22)[None]
ALL = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False, "task_type": "CAUSAL_LM"}
KINDS = {  # name → the base's own settings, the adapter, rows of the embedding where they are changed
    "all linear layers": ({}, LoraConfig(**ALL), None),
    "rsLoRA with dropout": ({}, LoraConfig(**ALL, use_rslora=True, lora_dropout=0.3), None),
    "DoRA": ({}, LoraConfig(**ALL, use_dora=True), None),
    "rsLoRA with other ranks": ({}, LoraConfig(**ALL, use_rslora=True, rank_pattern={"q_proj": 2}), None),
    "norms saved": ({}, LoraConfig(**ALL, modules_to_save=["norm", "input_layernorm"]), None),
    "some tokens": ({}, LoraConfig(**ALL, trainable_token_indices={"embed_tokens": [1, 2, 3]}), None),
    "some tokens, tied": ({"tie_word_embeddings": True}, LoraConfig(**ALL, trainable_token_indices=[3, 5]), None),
    "one layer": ({}, LoraConfig(**ALL | {"target_modules": ["q_proj", "up_proj"]}, layers_to_transform=[1]), None),
    "a parameter": (
        {},
        LoraConfig(**ALL | {"target_modules": ["q_proj"]}, target_parameters=["mlp.down_proj.weight"]),
        None,
    ),
    "biases": ({"attention_bias": True}, LoraConfig(**ALL, bias="lora_only"), None),
    "IA3": (
        {},
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False),
        None,
    ),
    "head alone, tied": ({"tie_word_embeddings": True}, LoraConfig(**ALL | {"target_modules": ["lm_head"]}), None),
    "embedding alone, tied": ({"tie_word_embeddings": True}, LoraConfig(**ALL | {"target_modules": ["embed_tokens"]}), None),
    "head alone, untied": ({}, LoraConfig(**ALL | {"target_modules": ["lm_head"]}), None),
    "head saved, tied": ({"tie_word_embeddings": True}, LoraConfig(**ALL, modules_to_save=["lm_head"]), None),
    "both saved": ({}, LoraConfig(**ALL, modules_to_save=["lm_head", "embed_tokens"]), None),
    "resized": ({}, LoraConfig(**ALL), 410),
    "resized and tied": ({"tie_word_embeddings": True}, LoraConfig(**ALL), 410),
}


def make_adapter(make_llama, tokenizer, folder, kind: str, own_tokenizer: bool = True) -> torch.Tensor:
    """Base and adapter in folders; returns PEFT's logits."""
    shape, config, rows = KINDS[kind]
    save(make_llama(**shape), tokenizer, folder / "base")
    lm = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    if rows is not None:
        torch.manual_seed(1)
        lm.resize_token_embeddings(rows)
    adapted = get_peft_model(lm, config).eval()
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if any(part in name for part in ("modules_to_save", "embedding_B", "trainable_tokens_delta", ".bias")):
                p.add_(torch.randn_like(p) / 10)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=rows is not None)
    if own_tokenizer:
        tokenizer.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return adapted(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_pefts_and_stay_so_when_saved(kind, make_llama, plain, tmp_path):
    truth = make_adapter(make_llama, plain.tokenizer, tmp_path, kind)
    lm, tokenizer = load(str(tmp_path / "adapter"))
    assert isinstance(lm, LlamaForCausalLM)
    assert all(p.requires_grad for p in lm.parameters())
    with torch.no_grad():
        torch.testing.assert_close(lm(input_ids=IDS).logits, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))
        TokenModel(lm).prepare()
        save(lm, tokenizer, tmp_path / "out")
        again, _ = load(str(tmp_path / "out"))
        torch.testing.assert_close(again(input_ids=IDS).logits, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))


def test_the_tokenizer_is_the_adapters_or_where_it_has_none_the_bases(make_llama, plain, chat, tmp_path):
    make_adapter(make_llama, plain.tokenizer, tmp_path, "all linear layers", own_tokenizer=False)
    for name in ("base", "adapter"):
        assert load_tokenizer(str(tmp_path / name)).chat_template is None
    (tmp_path / "adapter" / "chat_template.jinja").write_text(chat.tokenizer.chat_template)  # alone, it would be passed over
    with pytest.raises(ModelError, match=r"adapter has no tokenizer\.json; copy the tokenizer's files"):
        load_tokenizer(str(tmp_path / "adapter"))
    chat.tokenizer.save_pretrained(tmp_path / "adapter")
    assert load_tokenizer(str(tmp_path / "adapter")).chat_template == chat.tokenizer.chat_template
    assert load(str(tmp_path / "adapter"))[1].chat_template == chat.tokenizer.chat_template


def test_an_adapter_on_the_hub_is_one_too(make_llama, plain, tmp_path, monkeypatch):
    """As a name, of which the files are where the hub's client puts them."""
    truth = make_adapter(make_llama, plain.tokenizer, tmp_path, "all linear layers")
    monkeypatch.setattr("transformers.utils.peft_utils.find_adapter_config_file", lambda name: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path / "adapter"))
    monkeypatch.chdir(tmp_path)
    lm, _ = load("somebody/adapter")
    torch.testing.assert_close(lm(input_ids=IDS).logits, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))
    assert find_adapter("somebody/adapter").folder == tmp_path / "adapter"


def test_a_base_is_found_next_to_its_adapter(make_llama, plain, tmp_path):
    make_adapter(make_llama, plain.tokenizer, tmp_path, "all linear layers")
    where = tmp_path / "adapter" / "adapter_config.json"
    where.write_text(where.read_text(encoding="utf-8").replace(str(tmp_path / "base"), "../base"), encoding="utf-8")
    load(str(tmp_path / "adapter"))


@pytest.mark.parametrize("base", ["owner/renamed-model", "./gone", "/no/such/folder", "gone"])
@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_a_base_that_cannot_be_reached_is_named_with_its_adapter_and_what_to_do(
    base, own_tokenizer, make_llama, plain, tmp_path, monkeypatch
):
    make_adapter(make_llama, plain.tokenizer, tmp_path, "all linear layers", own_tokenizer)
    where = tmp_path / "adapter" / "adapter_config.json"
    where.write_text(where.read_text(encoding="utf-8").replace(str(tmp_path / "base"), base), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for read in (load,) if own_tokenizer else (load, load_tokenizer):
        with pytest.raises(ModelError) as caught:
            read("./adapter")
        text = str(caught.value)
        assert text.startswith(f"the adapter ./adapter was trained on {base}, which cannot be loaded (")
        assert "base_model_name_or_path in adapter/adapter_config.json" in text and "\n" not in text
        assert text.count(". ") == 0 and len(text) < 500


def test_an_adapter_of_another_base_is_refused(make_llama, plain, tmp_path):
    """Of more layers than the base has: PEFT drops what has no place."""
    make_adapter(make_llama, plain.tokenizer, tmp_path, "all linear layers")
    save(make_llama(num_hidden_layers=1), plain.tokenizer, tmp_path / "base")
    with pytest.raises(ModelError, match=r"layers\.1\..*has no place; name the model it was trained on"):
        load(str(tmp_path / "adapter"))


def test_a_learned_prompt_is_refused(llama, plain, tmp_path):
    adapted = get_peft_model(llama, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ModelError, match="is a learned prompt"):
        merged(adapted)
    save(llama, plain.tokenizer, tmp_path / "base")
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="is a learned prompt"):
        load(str(tmp_path / "adapter"))


def test_what_merging_changes_is_refused(llama, monkeypatch):
    adapted = get_peft_model(llama, LoraConfig(**ALL))
    monkeypatch.setattr(type(adapted.base_model), "merge_and_unload", lambda self: self.unload())
    with pytest.raises(ModelError, match="computes something else"):
        merged(adapted)


def test_a_peft_model_from_python_is_merged_and_others_are_refused(make_llama):
    adapted = get_peft_model(make_llama(), LoraConfig(**ALL)).eval()
    with torch.no_grad():
        truth = adapted(input_ids=IDS).logits
        lm = plain_model(adapted)
        torch.testing.assert_close(lm(input_ids=IDS).logits, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))
    assert plain_model(lm) is lm
    with pytest.raises(ModelError, match="adapters inside"):
        plain_model(get_peft_model(make_llama(), LoraConfig(**ALL)).get_base_model())
    with pytest.raises(ModelError, match="is a Sequential; give the PreTrainedModel"):
        plain_model(torch.nn.Sequential(lm))


def test_a_model_that_peft_froze_is_trained_in_full_and_one_frozen_in_part_stays_so(make_llama):
    left = get_peft_model(make_llama(), LoraConfig(**ALL)).merge_and_unload()
    assert not any(p.requires_grad for p in left.parameters())
    assert all(p.requires_grad for p in plain_model(left).parameters())
    some = make_llama()
    some.get_input_embeddings().weight.requires_grad_(False)
    assert not plain_model(some).get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize("state", ["the second of two", "both of two", "switched off", "merged"])
def test_a_peft_model_is_taken_as_it_answers_now(state, make_llama):
    adapted = get_peft_model(make_llama(), LoraConfig(**ALL)).eval()
    if state == "the second of two":
        adapted.add_adapter("second", LoraConfig(**ALL))
        adapted.set_adapter("second")
    elif state == "both of two":
        adapted.add_adapter("second", LoraConfig(**ALL | {"r": 2}))
        adapted.base_model.set_adapter(["default", "second"])
    elif state == "switched off":
        adapted.base_model.disable_adapter_layers()
    else:
        adapted.merge_adapter()
    with torch.no_grad():
        truth = adapted(input_ids=IDS).logits
        lm = plain_model(adapted)
        torch.testing.assert_close(lm(input_ids=IDS).logits, truth, rtol=1e-5, atol=1e-5 * float(truth.abs().max()))
