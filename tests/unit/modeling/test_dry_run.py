"""What would fail after the last step fails before the first, in one sentence."""

from __future__ import annotations

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from deleatur.errors import ModelError
from deleatur.modeling import dry_run
from deleatur.modeling.dry_run import gguf_notes, try_merging, try_saving
from deleatur.modeling.loading import add_adapters, load, save
from deleatur.settings import Lora

RANK = Lora(rank=2)


@pytest.fixture
def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 401}
    return MixtralForCausalLM(MixtralConfig(**shape, num_key_value_heads=2, num_local_experts=3, bos_token_id=0))


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_a_model_that_can_be_saved_is_as_it_was(name, request, plain, tmp_path, monkeypatch):
    """Also a family whose experts are written under other names than they have."""
    lm = request.getfixturevalue(name)
    monkeypatch.chdir(tmp_path)
    before = {key: value.clone() for key, value in lm.state_dict().items()}
    try_saving(lm, plain.tokenizer, "m")
    try_merging(lm, RANK, "m")
    assert before.keys() == lm.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in lm.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_of_many_equal_layers_one_is_written(make_llama):
    lm = make_llama(num_hidden_layers=5)
    assert dry_run._layer_of_each_kind(lm) == ("model.layers.0.",)


def test_settings_that_cannot_be_saved_are_refused(llama, plain):
    llama.generation_config.temperature = 0.3
    llama.generation_config.do_sample = False
    with pytest.raises(ModelError, match="m cannot be saved and read again as it is"):
        try_saving(llama, plain.tokenizer, "m")


def test_a_weight_that_would_be_lost_is_refused(llama, plain, monkeypatch):
    save = LlamaForCausalLM.save_pretrained
    short = lambda lm, folder, state_dict: save(lm, folder, state_dict=dict([*state_dict.items()][1:]))  # noqa: E731
    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", short)
    with pytest.raises(ModelError, match=r"without its weight model\.layers\.0\.self_attn\.q_proj\.weight"):
        try_saving(llama, plain.tokenizer, "m")


def test_a_tokenizer_that_comes_back_as_another_is_refused(llama, plain, chat, monkeypatch):
    monkeypatch.setattr(dry_run, "load_tokenizer", lambda folder: chat.tokenizer)
    with pytest.raises(ModelError, match="the tokenizer of m would be read again as another one"):
        try_saving(llama, plain.tokenizer, "m")


def test_adapters_that_cannot_be_merged_are_refused(mixtral, llama, monkeypatch):
    from peft.tuners.lora.layer import Linear, ParamWrapper

    monkeypatch.setattr(ParamWrapper, "merge", lambda layer: None)
    with pytest.raises(ModelError, match=r"adapters on MixtralExperts\.gate_up_proj of m cannot be merged"):
        try_merging(mixtral, RANK, "m")
    monkeypatch.setattr(Linear, "merge", lambda layer: layer.no_such_thing)
    with pytest.raises(ModelError, match=r"adapters on Linear of m cannot be merged .*leave lora\.rank out"):
        try_merging(llama, RANK, "m")


def test_a_model_without_a_layer_for_adapters_is_refused(llama):
    llama.model.layers = nn.ModuleList()
    with pytest.raises(ModelError, match="no linear layer for adapters"):
        try_merging(llama, RANK, "m")


def test_a_gguf_model_that_cannot_go_back_to_gguf_says_so_before_training(llama, plain):
    """Its tokenizer is of a kind that GGUF has; its positions are not."""
    assert gguf_notes(llama, plain.tokenizer, "model.gguf") == gguf_notes(llama, plain.tokenizer, "folder") == []
    llama.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    (note,) = gguf_notes(llama, plain.tokenizer, "model.gguf")
    assert note == (
        "The result can be saved, but not exported as GGUF as model.gguf is: a llama model with scaled positions cannot be "
        "written as GGUF"
    )
    assert gguf_notes(llama, plain.tokenizer, "folder") == []


def test_of_a_base_in_four_bits_the_plain_weights_are_saved_and_the_base_stays(make_llama, plain, tmp_path):
    save(make_llama(hidden_size=64), plain.tokenizer, tmp_path)
    lm, tokenizer = load(str(tmp_path), precision="bf16", bits=4)
    layer = lm.model.layers[0].mlp.up_proj
    back, lost = dry_run._back(lm, tokenizer, tmp_path / "trial")
    saved = load_file(tmp_path / "trial" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert not lost and type(back.model.layers[0].mlp.up_proj) is nn.Linear
    assert torch.equal(saved, dequantize_4bit(layer.weight.data, layer.weight.quant_state))
    assert lm.is_quantized and lm.model.layers[0].mlp.up_proj is layer and hasattr(lm.config, "quantization_config")
    try_saving(lm, tokenizer, "m")


def test_a_base_in_four_bits_that_would_be_read_as_another_is_refused(make_llama, plain, tmp_path, monkeypatch):
    save(make_llama(hidden_size=64), plain.tokenizer, tmp_path)
    lm, tokenizer = load(str(tmp_path), precision="bf16", bits=4)
    monkeypatch.setattr(dry_run, "drop_quantisation_marks", lambda lm: lm)  # so that it says it is in 4 bits still
    with pytest.raises(ModelError, match="saved"):
        try_saving(lm, tokenizer, "m")


@pytest.mark.parametrize("harm", [None, "value", "lost"])
def test_a_weight_that_is_gathered_as_another_is_refused(harm, llama, monkeypatch):
    """Adapters may have come onto it meanwhile."""
    gather = dry_run.gathering_trial(llama, "m")
    add_adapters(llama, RANK)

    def gathered(lm, kept):
        found = {key: w.clone() for key, w in lm.state_dict().items() if key.startswith(kept)}
        if harm == "lost":
            del found["model.layers.0.mlp.up_proj.base_layer.weight"]
        elif harm == "value":
            found["model.layers.0.mlp.up_proj.base_layer.weight"][0, 0] += 1
        return found

    monkeypatch.setattr(dry_run, "full_weights", gathered)
    if harm is None:
        gather()
        return
    with pytest.raises(
        ModelError, match=r"gathered from all processes, model\.layers\.0\.mlp\.up_proj\.weight of m is another"
    ):
        gather()
