"""What a GPU offers is chosen, tried and, where it will not do, left: with a stand-in for the GPU's libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from transformers.models.llama import modeling_llama

from deleatur.modeling import decoder, patches
from deleatur.modeling.decoder import by_positions, probe_texts
from deleatur.modeling.low_memory_layers import patch_low_memory_layers
from deleatur.modeling.token_model import TokenModel


@pytest.mark.parametrize(
    ("own", "dtype", "flash", "flex", "expected"),
    [
        ("sdpa", torch.bfloat16, True, True, ["flash_attention_2", "flex_attention"]),
        ("packed_sdpa", torch.bfloat16, True, True, ["flash_attention_2", "flex_attention"]),
        ("sdpa", torch.float32, True, True, ["flex_attention"]),
        ("sdpa", torch.bfloat16, False, True, ["flex_attention"]),
        ("sdpa", torch.bfloat16, False, False, []),
        ("eager", torch.bfloat16, True, True, ["flash_attention_2", "flex_attention"]),
        ("flash_attention_3", torch.bfloat16, True, True, ["flash_attention_3"]),
        ("kernels-community/flash-attn3", torch.bfloat16, False, False, ["kernels-community/flash-attn3"]),
    ],
)
def test_flash_attention_comes_before_flex_and_somebodys_choice_before_both(
    own, dtype, flash, flex, expected, llama, monkeypatch
):
    monkeypatch.setattr(decoder, "is_flash_attn_2_available", lambda: flash)
    monkeypatch.setattr(decoder, "is_torch_flex_attn_available", lambda: flex)
    llama.to(dtype).config._attn_implementation_internal = own
    assert by_positions(llama) == expected


def test_a_family_without_them_has_none(llama, monkeypatch):
    monkeypatch.setattr(decoder, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(type(llama), "_supports_flash_attn", False)
    monkeypatch.setattr(type(llama), "_supports_flex_attn", False)
    assert by_positions(llama.bfloat16()) == []


@pytest.fixture
def liger(monkeypatch):
    """A module in Liger's place that does as it does: new classes for all, new forwards for this model's norms."""
    made = ModuleType("monkey_patch")
    made.calls, made.factor = [], 1.0

    def apply(model, **options):
        made.calls.append((model, options))
        modeling_llama.LlamaRMSNorm = type("LigerRMSNorm", (), {})
        norm = model.model.norm
        vars(norm)["forward"] = lambda x: type(norm).forward(norm, x) * made.factor
        if made.factor is None:
            raise RuntimeError("no kernel image")

    made.MODEL_TYPE_TO_APPLY_LIGER_FN, made._apply_liger_kernel_to_instance = {"llama": apply}, apply
    package, inner = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    inner.monkey_patch = made
    for module in (package, inner, made):
        name = "liger_kernel.transformers.monkey_patch" if module is made else module.__name__
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(patches, "find_spec", lambda name: name == "liger_kernel")
    return made


def lean_norm(lm) -> Callable:
    """The forward of the last norm before Liger comes."""
    patch_low_memory_layers(lm)
    return vars(lm.model.norm)["forward"]


def fused(lm) -> TokenModel:
    model = TokenModel(lm).prepare()
    with torch.no_grad(), model.decoder.probing() as probe:
        model.decoder._fuse(probe_texts(probe), model.decoder._alone(probe_texts(probe)))
    return model


def test_liger_replaces_all_but_the_head_and_what_is_shared_by_a_family(liger, llama):
    norm, own = modeling_llama.LlamaRMSNorm, lean_norm(llama)
    model = fused(llama)
    assert liger.calls == [(llama, {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False})]
    assert model.notes == ["Norms and gated layers run through Liger's kernels"]
    assert vars(llama.model.norm)["forward"] is not own
    assert modeling_llama.LlamaRMSNorm is norm, "a model that is made later is as it would have been"


@pytest.mark.parametrize(("factor", "words"), [(2.0, "states differ by"), (None, "RuntimeError: no kernel image")])
def test_kernels_that_fail_or_compute_something_else_are_removed_again(factor, words, liger, llama):
    liger.factor = factor
    norm, own = modeling_llama.LlamaRMSNorm, lean_norm(llama)
    with pytest.warns(UserWarning, match=rf"LlamaForCausalLM cannot be run through Liger's kernels \({words}"):
        model = fused(llama)
    assert vars(llama.model.norm)["forward"] is own
    assert modeling_llama.LlamaRMSNorm is norm
    assert model.notes == []
    model.lm(torch.tensor([[5]]))


def test_a_family_that_liger_does_not_know_is_unchanged_without_a_warning(liger, llama):
    liger.MODEL_TYPE_TO_APPLY_LIGER_FN = {}
    assert fused(llama).notes == []
    assert liger.calls == []


def test_on_cpu_nothing_of_it_is_touched(liger, llama):
    model = TokenModel(llama).prepare()
    before = llama.config._attn_implementation
    model.enable_gpu_kernels()
    assert liger.calls == []
    assert model.packs
    assert llama.config._attn_implementation == before
