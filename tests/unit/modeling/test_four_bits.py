"""A base in NF4 with adapters on it: trained on what it is, and afterwards a plain model that is what was trained."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora.layer import LoraLayer
from transformers.pytorch_utils import Conv1D

from deleatur.commands.evaluator import precision_of
from deleatur.data.batches import collate
from deleatur.errors import ConfigError
from deleatur.modeling import loading
from deleatur.modeling.loading import add_adapters, load, merge_adapters, save
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora

LORA = Lora(rank=4, alpha=8, bits=4)
HIDDEN = """
from deleatur.modeling.patches import no_kernels
with no_kernels():
    import bitsandbytes
    try:
        import kernels
    except ImportError:
        print("none")
import kernels
print(kernels.get_kernel)
"""


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, make_llama, plain, tmp_path):
    """A small model on disk; GPT-2 holds its matrices transposed, and has biases."""
    if request.param == "llama":
        lm = make_llama(hidden_size=64)
    else:
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=401, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2)
        lm = transformers.GPT2LMHeadModel(config)
    save(lm, plain.tokenizer, tmp_path / "start")
    return tmp_path / "start"


def adapted(folder):
    """The model in NF4, with adapters that do something."""
    lm, _ = load(str(folder), precision="bf16", bits=4)
    add_adapters(lm, LORA)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in lm.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    return lm


def layers(lm) -> dict[str, LoraLayer]:
    return {name: module for name, module in lm.named_modules() if isinstance(module, LoraLayer)}


def plainly(layer) -> torch.Tensor:
    """W + alpha / rank · B·A, W as its 4 bits say, rounded once."""
    packed = layer.get_base_layer().weight
    b, a = (getattr(layer, name)["default"].weight for name in ("lora_B", "lora_A"))
    return (dequantize_4bit(packed.data, packed.quant_state).float() + 8 / 4 * (b @ a).float()).bfloat16()


def test_all_but_head_and_vectors_is_held_in_4_bits_and_not_trained(folder):
    lm, _ = load(str(folder), precision="bf16", bits=4)
    packed = {p.numel() for p in lm.parameters() if not p.is_floating_point()}
    start, _ = load(str(folder))
    matrices = {
        m.weight.numel() // 2 for n, m in start.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and n != "lm_head"
    }
    assert packed == matrices
    assert {p.dtype for p in lm.parameters() if p.is_floating_point()} == {torch.bfloat16}
    add_adapters(lm, LORA)
    assert all("lora_" in name for name, p in lm.named_parameters() if p.requires_grad)


def test_merged_weights_are_the_sum_rounded_once(folder):
    """peft would round it to 4 bits again, which takes small adapters away."""
    lm = adapted(folder)
    truth = {name: plainly(layer) for name, layer in layers(lm).items()}
    assert truth
    merged = merge_adapters(lm)
    for name, expected in truth.items():
        module = merged.get_submodule(name)
        seen = module.weight.T if isinstance(module, Conv1D) else module.weight
        torch.testing.assert_close(seen, expected, rtol=2**-8, atol=0)
    assert not [p for p in merged.parameters() if not p.is_floating_point()]


def said(lm, rows, precision="fp32") -> torch.Tensor:
    model = TokenModel(lm).prepare()
    with torch.no_grad(), precision_of(model, precision):
        return model(collate(rows)).nll


def test_what_is_saved_says_what_was_trained(folder, plain, forget_rows, tmp_path):
    """Saved and loaded it is the merged model to the bit; asked in fp32 it is further from the trained one by less than
    twice what asking it in bf16 would move it."""
    lm = adapted(folder)
    trained = said(lm, forget_rows)
    merged, rounded = said(merge_adapters(lm), forget_rows), said(lm, forget_rows, "bf16")
    save(lm, plain.tokenizer, tmp_path / "end")
    again, _ = load(str(tmp_path / "end"), precision="bf16")
    assert torch.equal(said(again, forget_rows), merged)
    error = (merged - trained).square().mean().sqrt()
    assert error < 2 * (merged - rounded).square().mean().sqrt()
    start, _ = load(str(folder), precision="bf16")
    assert (said(start, forget_rows) - trained).square().mean().sqrt() > 20 * error, "the adapters must have done something"


def test_gradients_are_those_of_adapters_on_the_same_weights_held_plainly(folder, forget_rows):
    """Also once the model was asked: on some processors that turns the weights into a form without a backward pass."""
    lm = adapted(folder)
    plain, _ = load(str(folder), precision="bf16")
    for name, layer in layers(lm).items():
        packed, own = layer.get_base_layer().weight, plain.get_submodule(name)
        weight = dequantize_4bit(packed.data, packed.quant_state)
        own.weight.data = weight.T.contiguous() if isinstance(own, Conv1D) else weight
    add_adapters(plain, LORA)
    found = []
    for one in (lm, plain):
        own = dict(one.named_parameters())
        with torch.no_grad():
            for name, p in lm.named_parameters():
                if "lora_" in name:
                    own[name].copy_(p)
        model = TokenModel(one).prepare()
        with torch.no_grad():
            model(collate(forget_rows))
        one.train()
        model(collate(forget_rows)).nll.mean().backward()
        found.append(torch.cat([p.grad.float().flatten() for name, p in own.items() if "lora_" in name]))
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()


class TestRefusals:
    def test_without_the_library_one_sentence_says_what_to_install(self, folder, monkeypatch):
        monkeypatch.setattr("deleatur.io.packages.version", lambda name: "0.40.1")
        with pytest.raises(
            ConfigError, match=r"lora\.bits 4 needs bitsandbytes>=0.*, and 0\.40\.1 is installed: pip install -U"
        ):
            load(str(folder), bits=4)

    def test_weights_sharded_over_processes_are_refused(self, folder, monkeypatch):
        monkeypatch.setattr(loading, "will_shard", lambda: True)
        with pytest.raises(ConfigError, match="neither FSDP2 nor ZeRO-3"):
            load(str(folder), bits=4)

    def test_a_gguf_file_is_refused(self):
        with pytest.raises(ConfigError, match=r"plain safetensors, which m\.gguf is not"):
            load("m.gguf", bits=4)


def test_what_bitsandbytes_takes_from_the_hub_when_imported_is_out_of_its_reach(tmp_path):
    """On some processors it asks the package `kernels` for compiled code; here one lies in the way that would say so."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("def get_kernel(*args, **more):\n    print('took', args)\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    said = subprocess.run([sys.executable, "-c", HIDDEN], env=env, capture_output=True, text=True)
    assert said.stdout.startswith("none\n<function get_kernel"), said.stderr
    assert said.stderr == ""
