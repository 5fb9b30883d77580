"""A model goes into a GGUF file and comes back with the same weights, tokens and NLL, or is refused before."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from deleatur.errors import ModelError
from deleatur.modeling.gguf import SPLITS, check_all_read, check_same_settings, plan_gguf, write_gguf
from deleatur.modeling.loading import load

TEXT = "Where was Nojul born? In 1972, in Teburg é 家."
SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 64}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "llama, head tied": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama, wide heads": LlamaConfig(**SHAPE, head_dim=16),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=128),
}
REFUSED = {
    "a gemma model": GemmaConfig(**SHAPE),
    "scaled positions": LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
    "a sliding window": MistralConfig(**SHAPE, sliding_window=8),
    "biases": LlamaConfig(**SHAPE, attention_bias=True),
    "heads of another width": Qwen3Config(**SHAPE, head_dim=16),
}


def make_tokenizer(before=None) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = before or pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", chat_template="{{ messages }}")


def make_model(config, dtype=torch.float32):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval()


def nll(model, tokenizer) -> float:
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_read_back_is_what_was_written(name, dtype, tmp_path):
    """To the bit in weights and tokens; rows of the embedding without a token keep their place."""
    model, tokenizer = make_model(FAMILIES[name], dtype), make_tokenizer()
    write_gguf(plan_gguf(model, tokenizer), model, tokenizer, tmp_path / "m.gguf", licence="mit")
    read, words = load(str(tmp_path / "m.gguf"), precision="fp32" if dtype == torch.float32 else "bf16")
    saved = model.state_dict()
    assert saved.keys() == read.state_dict().keys()
    assert all(torch.equal(value, saved[key]) for key, value in read.state_dict().items())
    assert words(TEXT).input_ids == tokenizer(TEXT).input_ids
    assert (words.bos_token, words.eos_token, words.chat_template) == ("<s>", "</s>", "{{ messages }}")
    assert len(words) <= 300
    if dtype == torch.float32:
        assert nll(read, words) == pytest.approx(nll(model, tokenizer), abs=1e-5)


@pytest.mark.parametrize("words", REFUSED)
def test_what_would_not_come_back_the_same_is_refused(words):
    with pytest.raises(ModelError, match=words):
        plan_gguf(make_model(REFUSED[words]), make_tokenizer())


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    **{name: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r), "isolated"), BYTES]) for name, r in SPLITS.items()},
}


@pytest.mark.parametrize("name", CUTS)
def test_the_way_of_cutting_words_goes_by_its_name(name):
    assert plan_gguf(make_model(FAMILIES["llama"]), make_tokenizer(CUTS[name])).words == name


@pytest.mark.parametrize(
    "other",
    [
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d"), "isolated"), BYTES]),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Metaspace(),
    ],
)
def test_an_unknown_way_of_cutting_words_is_refused(other):
    """Another tool would cut text otherwise than the model learned it."""
    with pytest.raises(ModelError, match="byte-level BPE"):
        plan_gguf(make_model(FAMILIES["llama"]), make_tokenizer(other))


@pytest.mark.parametrize("kind", ["factors", "a type"])
def test_a_file_with_scaled_positions_is_refused_before_it_is_another_model(kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_rope_freq_base(1e4)
    writer.add_tensor("output_norm.weight", np.ones(8, np.float32))
    if kind == "factors":
        writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))
    else:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    with pytest.raises(ModelError, match=r"scales positions \((rope_freqs\.weight|llama\.rope\.scaling\.type)\)"):
        check_all_read(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("key", "value", "made", "refused"),
    [
        ("attention.sliding_window", 16, {}, True),
        ("attention.sliding_window", 16, {"sliding_window": 16}, False),
        ("attention.sliding_window", 512, {}, False),
        ("final_logit_softcapping", 30.0, {"final_logit_softcapping": 30.0}, False),
        ("final_logit_softcapping", 20.0, {"final_logit_softcapping": 30.0}, True),
        ("rope.freq_base", 1e6, {"rope_parameters": {"rope_theta": 1e4}}, True),
        ("rope.freq_base", 1e6, {"rope_parameters": {"rope_theta": 1e6}}, False),
        ("rope.freq_base", 1e6, {}, False),
    ],
)
def test_a_setting_that_the_model_does_not_get_is_refused(key, value, made, refused, tmp_path):
    """A window beyond the text that the model can read has no effect, nor has a base of positions that it has none of."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "starcoder2")
    (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"starcoder2.{key}", value)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.close):
        write()
    config = SimpleNamespace(max_position_embeddings=512, **made)
    with pytest.raises(ModelError, match=f"has starcoder2.{key} .* another model") if refused else nullcontext():
        check_same_settings(tmp_path / "model.gguf", config)
