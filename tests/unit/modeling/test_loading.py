"""Load, adapt, save: what comes back computes what went in."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from deleatur.data.batches import collate
from deleatur.errors import ConfigError, ModelError
from deleatur.modeling.loading import add_adapters, load, load_tokenizer, looks_local, merge_adapters, save
from deleatur.modeling.patches import disable_dropout, drop_quantisation_marks, exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora

GPT2 = {"vocab_size": 401, "n_embd": 32, "n_layer": 2, "n_head": 4}
SMALL = {"vocab_size": 401, "hidden_size": 32, "num_attention_heads": 4}
DROPPING = {  # families that drop in different ways: modules, numbers given to a function, numbers of the attention
    "GPT2LMHeadModel": transformers.GPT2Config(**GPT2, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
    "OPTForCausalLM": transformers.OPTConfig(
        **SMALL, ffn_dim=48, num_hidden_layers=2, word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5
    ),
    "BloomForCausalLM": transformers.BloomConfig(
        vocab_size=401, hidden_size=32, n_layer=2, n_head=4, hidden_dropout=0.5, attention_dropout=0.5
    ),
    "PhiForCausalLM": transformers.PhiConfig(
        **SMALL, intermediate_size=48, num_hidden_layers=2, resid_pdrop=0.5, embd_pdrop=0.5, attention_dropout=0.5
    ),
    "LlamaForCausalLM": transformers.LlamaConfig(**SMALL, intermediate_size=48, num_hidden_layers=2, attention_dropout=0.5),
}


@torch.no_grad()
def nll(lm, rows) -> torch.Tensor:
    return TokenModel(lm.eval()).prepare()(collate(rows)).nll


def gpt2() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2, initializer_range=0.2)).eval()


def adapt(lm, rank: int = 4) -> None:
    """Adapters that do something, as after training (fresh ones add nothing)."""
    add_adapters(lm, Lora(rank=rank))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) / 10)


class TestSaveAndLoad:
    def test_a_model_round_trips_unchanged(self, llama, plain, forget_rows, tmp_path):
        save(llama, plain.tokenizer, tmp_path / "model")
        again, tokenizer = load(str(tmp_path / "model"))
        assert torch.equal(nll(again, forget_rows), nll(llama, forget_rows))
        assert tokenizer("Where was Runa born?").input_ids == plain.tokenizer("Where was Runa born?").input_ids

    def test_a_chat_template_comes_back_too(self, llama, chat, tmp_path):
        save(llama, chat.tokenizer, tmp_path)
        turns = [{"role": "user", "content": "Who?"}]
        text = load_tokenizer(str(tmp_path)).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert text == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"

    def test_nothing_saved_is_a_pickle(self, llama, plain, tmp_path):
        """Weights are safetensors, all else is text."""
        adapt(llama)
        save(llama, plain.tokenizer, tmp_path)
        names = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
        assert "model.safetensors" in names
        assert {n.rpartition(".")[2] for n in names} <= {"safetensors", "json", "jinja", "txt"}
        assert not [n for n in names if "adapter" in n]

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_the_precision_is_the_one_asked_for(self, precision, llama, plain, tmp_path):
        save(llama, plain.tokenizer, tmp_path)
        model, _ = load(str(tmp_path), precision=precision)
        assert {p.dtype for p in model.parameters()} == {{"fp32": torch.float32, "bf16": torch.bfloat16}[precision]}

    def test_a_folder_with_an_adapter_is_loaded_onto_its_base_and_merged(self, make_llama, plain, forget_rows, tmp_path):
        save(make_llama(), plain.tokenizer, tmp_path / "base")
        lm, _ = load(str(tmp_path / "base"))
        adapted = get_peft_model(lm, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        adapted.save_pretrained(tmp_path / "adapter")
        merged, _ = load(str(tmp_path / "adapter"))
        assert isinstance(merged, transformers.LlamaForCausalLM)
        torch.testing.assert_close(
            nll(merged, forget_rows), nll(adapted.get_base_model(), forget_rows), rtol=1e-5, atol=1e-5
        )
        assert (nll(merged, forget_rows) - nll(make_llama(), forget_rows)).abs().max() > 0.1

    @pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "no-such-file.gguf", "a/b/c"])
    def test_a_path_with_nothing_there_is_refused(self, name):
        with pytest.raises(ModelError, match=f"no model at {name}; give a folder"):
            load(name)

    def test_a_name_that_the_hub_does_not_give_is_refused_in_one_line(self):
        with pytest.raises(ModelError, match=r"cannot load the tokenizer of nobody/nothing: .") as refused:
            load("nobody/nothing")
        assert "\n" not in str(refused.value)

    def test_a_folder_without_a_model_is_refused_in_one_line(self, plain, tmp_path):
        plain.tokenizer.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"has no config\.json, .*; give the folder that has it") as refused:
            load(str(tmp_path))
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize(
        ("name", "local"),
        [(name, False) for name in ("gpt2", "owner/model")]
        + [(name, True) for name in ("./model", "/model", "~/m", "a/b/c", "model.gguf")],
    )
    def test_a_path_is_distinguished_from_a_name_on_the_hub(self, name, local):
        assert looks_local(name) is local


class TestAdapters:
    def test_fresh_adapters_change_nothing(self, make_llama, forget_rows):
        lm = make_llama()
        before = nll(lm, forget_rows)
        add_adapters(lm, Lora(rank=4))
        assert torch.equal(nll(lm, forget_rows), before)

    def test_only_adapters_are_trained_and_the_head_has_none(self, llama):
        """Seven linear layers in each of two blocks, two matrices each."""
        add_adapters(llama, Lora(rank=4))
        trained = [name for name, p in llama.named_parameters() if p.requires_grad]
        assert len(trained) == 2 * 7 * 2
        assert all("lora_" in name for name in trained)
        assert not any("lora_" in name for name, _ in llama.lm_head.named_parameters())

    @pytest.mark.parametrize("family", ["llama", "gpt2"])
    def test_merged_adapters_are_the_adapters(self, family, make_llama, forget_rows):
        """W·x + (alpha/r)·B·A·x = (W + (alpha/r)·B·A)·x; also where a layer holds its matrix transposed (GPT-2)."""
        lm = make_llama() if family == "llama" else gpt2()
        plain = nll(lm, forget_rows)
        adapt(lm)
        on = nll(lm, forget_rows)
        merged = merge_adapters(lm)
        torch.testing.assert_close(nll(merged, forget_rows), on, rtol=1e-5, atol=1e-5)
        assert (on - plain).abs().max() > 0.1, "the adapters must have done something"
        assert not [name for name, _ in merged.named_parameters() if "lora" in name or "base_layer" in name]

    def test_a_saved_adapted_model_loads_as_a_plain_one(self, make_llama, plain, forget_rows, tmp_path):
        lm = make_llama()
        adapt(lm)
        on = nll(lm, forget_rows)
        save(lm, plain.tokenizer, tmp_path)
        again, _ = load(str(tmp_path))
        torch.testing.assert_close(nll(again, forget_rows), on, rtol=1e-5, atol=1e-5)
        assert {n for n, _ in again.named_parameters()} == {n for n, _ in make_llama().named_parameters()}

    def test_without_adapters_merging_does_nothing(self, llama):
        before = {n: p.clone() for n, p in llama.named_parameters()}
        assert merge_adapters(llama) is llama
        assert all(torch.equal(p, before[n]) for n, p in llama.named_parameters())

    def test_the_seed_decides_where_adapters_start(self, make_llama):
        starts = []
        for seed in (0, 0, 1):
            lm = make_llama()
            torch.manual_seed(seed)
            add_adapters(lm, Lora(rank=4))
            starts.append(torch.cat([p.flatten() for n, p in lm.named_parameters() if "lora_A" in n]))
        assert torch.equal(starts[0], starts[1])
        assert not torch.equal(starts[0], starts[2])


class TestPrepare:
    @pytest.mark.parametrize("family", DROPPING)
    def test_dropout_is_off_in_training_mode_too(self, family):
        """What is forgotten and what it is compared with must be the same function of the rows."""
        torch.manual_seed(0)
        lm = disable_dropout(getattr(transformers, family)(DROPPING[family]))
        ids = torch.arange(2, 40)[None]
        with torch.no_grad():
            calm = lm.eval()(input_ids=ids).logits
            one, other = (lm.train()(input_ids=ids).logits for _ in range(2))
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one, calm, rtol=1e-5, atol=1e-5)

    def test_marks_of_quantisation_are_dropped(self, llama, plain, forget_rows, tmp_path):
        """A model out of a GGUF file says it is quantised, though its weights are plain; it must save and load as plain."""
        before = nll(llama, forget_rows)
        llama.config.quantization_config = {"quant_method": "gguf"}
        llama.is_quantized, llama.quantization_method, llama.hf_quantizer = True, "gguf", SimpleNamespace()
        dropped = drop_quantisation_marks(llama)
        assert getattr(dropped.config, "quantization_config", None) is None
        assert not getattr(dropped, "is_quantized", False)
        save(dropped, plain.tokenizer, tmp_path)
        assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
        assert torch.equal(nll(load(str(tmp_path))[0], forget_rows), before)

    def test_a_model_without_marks_is_unchanged(self, llama):
        assert drop_quantisation_marks(llama) is llama


@pytest.fixture
def precision_of_products():
    kept = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(kept)


def test_products_stay_exact_after_exact_matmul(precision_of_products):
    """On shapes other than the one it tries itself, fp32 products are within 1e-5 of fp64's, in norm."""
    exact_matmul()
    for shape in ((64, 2048, 96), (257, 301, 401), (4, 8, 4)):
        a = torch.randn(shape[0], shape[1], generator=torch.Generator().manual_seed(1))
        b = torch.randn(shape[1], shape[2], generator=torch.Generator().manual_seed(2))
        truth = a.double() @ b.double()
        assert (a @ b - truth).norm() / truth.norm() < 1e-5


def test_a_checkpoint_that_was_published_in_4_bits_is_made_plain_and_saved_as_such(make_llama, plain, tmp_path):
    pytest.importorskip("bitsandbytes")
    save(make_llama(hidden_size=64, intermediate_size=128), plain.tokenizer, tmp_path / "plain")
    nf4 = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    packed = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=nf4)
    packed.save_pretrained(tmp_path / "packed")
    plain.tokenizer.save_pretrained(tmp_path / "packed")
    lm, tokenizer = load(str(tmp_path / "packed"))
    assert all(p.requires_grad for p in lm.parameters())
    ids = torch.arange(2, 12)[None]
    with torch.no_grad():
        truth = packed(input_ids=ids).logits.float()
        assert float((lm(input_ids=ids).logits - truth).norm() / truth.norm()) < 0.02
        save(lm, tokenizer, tmp_path / "out")
        assert torch.equal(load(str(tmp_path / "out"))[0](input_ids=ids).logits, lm(input_ids=ids).logits)
    with pytest.raises(ConfigError, match=r"lora\.bits 4 needs plain weights"):
        load(str(tmp_path / "packed"), bits=4)


def test_a_checkpoint_that_was_published_in_8_bit_floats_is_made_plain(make_llama, plain, tmp_path):
    """Of each matrix, the floats times the scale of their block."""
    save(make_llama(), plain.tokenizer, tmp_path / "model")
    config, weights = tmp_path / "model" / "config.json", load_file(tmp_path / "model" / "model.safetensors")
    method = {"quant_method": "fp8", "weight_block_size": [64, 64], "activation_scheme": "dynamic"}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": method}))
    small = {key: w.to(torch.float8_e4m3fn) for key, w in weights.items() if "_proj" in key}
    scales = {f"{key}_scale_inv": torch.full((-(-w.shape[0] // 64), -(-w.shape[1] // 64)), 0.5) for key, w in small.items()}
    save_file({**weights, **small, **scales}, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    lm, tokenizer = load(str(tmp_path / "model"))
    for key, w in small.items():
        torch.testing.assert_close(lm.get_parameter(key).detach(), w.float() / 2, rtol=0, atol=0)
    save(lm, tokenizer, tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors", "hqq", "torchao", "a new one"])
def test_other_formats_are_refused_before_a_library_for_them_is_asked_for(method, llama, plain, tmp_path):
    save(llama, plain.tokenizer, tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_method": method}}))
    with pytest.raises(ModelError, match=rf"are quantised \({method}\), and cannot be trained; give the model they are of"):
        load(str(tmp_path / "model"))


def test_settings_of_sampling_without_sampling_are_read_and_can_be_saved(llama, plain, tmp_path):
    save(llama, plain.tokenizer, tmp_path / "model")
    where = tmp_path / "model" / "generation_config.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | {"temperature": 0.9, "top_p": 0.6, "do_sample": False}))
    lm, tokenizer = load(str(tmp_path / "model"))
    save(lm, tokenizer, tmp_path / "out")
    assert load(str(tmp_path / "out"))[0].generation_config.temperature == 0.9


def test_weights_quantised_in_an_unknown_way_are_refused(llama, plain, tmp_path):
    """As other tools write it, with keys of their own."""
    save(llama, plain.tokenizer, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"quantization_config": {"quant_algo": "FP8"}}))
    with pytest.raises(ModelError, match=r"quantization_config without a quant_method.* take quantization_config out"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    "written", ['{"eos_token_id": "x"}', '{"cache_implementation": "none such"}', '{"early_stopping": "x"}']
)
def test_settings_of_generation_that_cannot_be_read_are_named(written, llama, plain, tmp_path):
    save(llama, plain.tokenizer, tmp_path)
    (tmp_path / "generation_config.json").write_text(written)
    with pytest.raises(ModelError, match=r"the generation_config\.json of .* cannot be used .*; correct it or leave it out"):
        load(str(tmp_path))


def test_a_padding_token_below_zero_is_none(llama, plain, tmp_path):
    save(llama, plain.tokenizer, tmp_path)
    (tmp_path / "generation_config.json").write_text('{"pad_token_id": -1}')
    assert load(str(tmp_path))[0].generation_config.pad_token_id is None


def test_a_family_with_an_encoder_is_refused_with_what_to_give(plain, tmp_path):
    shape = {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2, "d_kv": 8, "vocab_size": 401}
    transformers.T5ForConditionalGeneration(transformers.T5Config(**shape)).save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"a T5 is no causal language model .*; give a language model"):
        load(str(tmp_path))
