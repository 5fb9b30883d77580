"""A model whose files are broken is refused in a sentence that names the file and says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig, VBLoRAConfig, get_peft_model
from safetensors.torch import load_file, save_file

from deleatur.errors import ModelError
from deleatur.modeling.loading import load, save
from deleatur.modeling.model_files import check_hub

AGAIN = r"get it again from where the model came"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture
def folder(llama, plain, tmp_path) -> Path:
    save(llama, plain.tokenizer, tmp_path)
    llama.save_pretrained(tmp_path / "in parts", max_shard_size="40KB")
    plain.tokenizer.save_pretrained(tmp_path / "in parts")
    return tmp_path


def settings(file: str, **changed: object) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changed))


def text(file: str, written: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(written)


NO_METHOD = r"a quantization_config without a quant_method, .*; give the model that they are of, or"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "quantised, a word": (settings("config.json", quantization_config="gptq"), NO_METHOD),
    "quantised, a list": (settings("config.json", quantization_config=["gptq"]), NO_METHOD),
    "quantised, nothing said": (settings("config.json", quantization_config={}), NO_METHOD),
    "settings are a list": (text("config.json", "[]"), rf"config\.json holds no JSON object, .*; {AGAIN}"),
    "settings are cut off": (text("config.json", '{"model_type":'), rf"config\.json cannot be read .*; {AGAIN}"),
    "settings are a pointer": (text("config.json", LFS), r"config\.json is a pointer of Git LFS .*; run git lfs pull"),
    "no family": (settings("config.json", model_type=None), r"names no model_type; take the file that belongs to"),
    "unknown family": (
        settings("config.json", model_type="new"),
        r"the model_type 'new', .*; correct it, or use a newer tr",
    ),
    "a size is a word": (settings("config.json", hidden_size="32"), r"the config\.json of .* cannot be used.*; correct its"),
    "a size of others": (settings("config.json", head_dim=4), r"is of shape .* and .* by its config\.json; take the"),
    "fewer layers": (
        settings("config.json", num_hidden_layers=1),
        r"1 more layers \(model\.layers\.1 first\) than the 1 of",
    ),
    "generation cut off": (text("generation_config.json", "{"), rf"generation_config\.json cannot be read .*; {AGAIN}"),
    "tokenizer cut off": (text("tokenizer.json", '{"version'), rf"tokenizer\.json cannot be read .*; {AGAIN}"),
    "tokenizer is a list": (
        text("tokenizer_config.json", "[]"),
        rf"tokenizer_config\.json holds no JSON object, .*; {AGAIN}",
    ),
    "tokenizer of others": (text("tokenizer.json", "{}"), r"cannot load the tokenizer of .*; correct its files, or get"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"has no tokenizer\.json; copy the tokenizer's files from"),
    "weights cut off": (lambda f: cut(f / "model.safetensors"), rf"model\.safetensors is incomplete or damaged .*; {AGAIN}"),
    "weights are a pointer": (text("model.safetensors", LFS), r"model\.safetensors is a pointer of Git LFS .*; run git lfs"),
    "weights renamed": (
        lambda f: (f / "model.safetensors").rename(f / "weights.safetensors"),
        r"has no model\.safetensors and no .*; it has weights\.safetensors, .*; get the files",
    ),
}
INDEX = "model.safetensors.index.json"
IN_PARTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a part is missing": (
        lambda f: first(f).unlink(),
        r"lacks model-00001-of-\d+\.safetensors, which its .* names; get that",
    ),
    "a part is cut off": (lambda f: cut(first(f)), rf"model-00001-of-\d+\.safetensors is incomplete or damaged .*; {AGAIN}"),
    "the index is cut off": (text(INDEX, '{"weight'), rf"{INDEX} cannot be read .*; {AGAIN}"),
    "the index names none": (text(INDEX, "{}"), r"does not say which weight is in which file; get it again"),
    "the index is missing": (lambda f: (f / INDEX).unlink(), r"has no model\.safetensors and no .*; get the files of the w"),
}


def first(folder: Path) -> Path:
    return min(folder.glob("model-*.safetensors"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("name", [*BROKEN, *IN_PARTS])
def test_a_broken_file_is_named_with_what_to_do(name, folder):
    harm, words = (BROKEN | IN_PARTS)[name]
    model = folder / "in parts" if name in IN_PARTS else folder
    assert load(str(model))[0].num_parameters() > 0
    harm(model)
    with pytest.raises(ModelError, match=words) as refused:
        load(str(model))
    assert str(model) in str(refused.value) and "\n" not in str(refused.value)


def test_more_tokens_predicted_at_once_are_no_layers_of_the_model(folder):
    """Their weights, which some families have behind the last layer, are left out, as transformers does."""
    weights = load_file(folder / "model.safetensors")
    last = {key.replace("layers.1.", "layers.2."): w.clone() for key, w in weights.items() if "layers.1." in key}
    extra = {"model.layers.2.eh_proj.weight": weights["model.norm.weight"].clone()}
    save_file({**weights, **last, **extra}, folder / "model.safetensors", metadata={"format": "pt"})
    assert len(load(str(folder))[0].model.layers) == 2


@pytest.mark.parametrize(
    ("key", "refused"),
    [
        ("model.layers.0.self_attn.q_proj.bias", True),
        ("model.layers.0.self_attn.q_proj.weight_scale", True),  # of 8-bit floats, where config.json says nothing
        ("model.layers.0.self_attn.q_proj.lora_A.default.weight", True),
        ("model.layers.1.self_attn.q_norm.weight", True),
        ("lm_head.bias", True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", False),
        ("model.layers.0.self_attn.bias", False),  # a mask
        ("v_head.summary.weight", False),
    ],
)
def test_a_weight_of_a_part_of_the_model_is_not_passed_over(key, refused, folder):
    """With it the model computes something else; what lies beside the model, as a head for values does, is left out."""
    save_file({**load_file(folder / "model.safetensors"), key: torch.ones(32)}, folder / "model.safetensors")
    if refused:
        with pytest.raises(ModelError, match=rf"hold {key}, which a LlamaForCausalLM .* does without, .*; take the config"):
            load(str(folder))
    else:
        assert load(str(folder))[0].num_parameters() > 0


LACKING: dict[str, PeftConfig] = {
    "lora_A": LoraConfig(target_modules=["q_proj"]),
    "hada_w1_a": LoHaConfig(target_modules=["q_proj"]),
    "ia3_l": IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    "vblora_logits_A": VBLoRAConfig(target_modules=["q_proj"], num_vectors=16, vector_length=8),
}


@pytest.mark.parametrize("lacks", LACKING)
def test_an_adapter_without_all_of_its_weights_is_refused(lacks, folder, llama, tmp_path):
    """Of any kind, and one that has them all is not."""
    adapter = tmp_path / "adapter"
    adapted = get_peft_model(llama, LACKING[lacks])
    adapted.peft_config["default"].base_model_name_or_path = str(folder)
    adapted.save_pretrained(str(adapter))
    assert load(str(adapter))[0].num_parameters() > 0
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {k: w for k, w in weights.items() if not ("layers.1." in k and lacks in k)}, adapter / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match=rf"lacks its weight .*layers\.1\..*{lacks}.*; get the adapter's files again"):
        load(str(adapter))


@pytest.mark.parametrize(
    ("has", "refused"), [({"pytorch_model.bin"}, True), ({"model.safetensors", "pytorch_model.bin"}, False)]
)
def test_a_name_on_the_hub_with_pickled_weights_alone_is_refused(has, refused, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda name, file: file in has)
    if refused:
        with pytest.raises(
            ModelError, match=r"its weights are pickled \(pytorch_model\.bin\), .*; save them as safetensors"
        ):
            check_hub("owner/model")
    else:
        check_hub("owner/model")


@pytest.mark.parametrize("below", ["checkpoint-5/adapter_config.json", "model/config.json", "model.gguf"])
def test_a_folder_with_models_below_it_names_them(below, tmp_path):
    """As a trainer's output folder, a PeftModel saved with an adapter of another name, and a run folder are."""
    (tmp_path / below).parent.mkdir(exist_ok=True)
    (tmp_path / below).write_text("{}")
    with pytest.raises(ModelError, match=rf"is no model; give what is in it: '{below.partition('/')[0]}'"):
        load(str(tmp_path))
