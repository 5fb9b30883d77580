"""Adapters go onto linear layers and fused experts; what they leave out is said."""

from __future__ import annotations

import pytest
import torch
import transformers

from deleatur.modeling.loading import add_adapters, merge_adapters
from deleatur.modeling.lora_targets import lora_targets
from deleatur.settings import Lora

SHAPE = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
MIXED = SHAPE | {"num_key_value_heads": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
IDS = torch.arange(2, 12)[None]


def make(family: str, **settings: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings, initializer_range=0.2, pad_token_id=0)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


def make_mixed() -> transformers.PreTrainedModel:
    """A dense layer, and one with four experts in one tensor and a shared one."""
    return make("Qwen2Moe", **MIXED, num_experts=4, shared_expert_intermediate_size=20, mlp_only_layers=[0])


def test_fused_experts_shared_ones_and_dense_layers_are_all_adapted_and_the_head_is_not():
    """PEFT's own "all-linear" takes the dense layers' names for those of experts, and leaves the layers out."""
    targets = lora_targets(make_mixed())
    assert targets.experts == tuple(f"model.layers.1.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj"))
    assert {"model.layers.0.mlp.gate_proj", "model.layers.1.mlp.shared_expert.up_proj"} <= {*targets.layers}
    assert "lm_head" not in targets.layers
    assert targets.left_out == ("Qwen2MoeTopKRouter.weight",)


def test_every_adapter_is_trained_and_merged_into_its_weight():
    lm = make_mixed()
    start = {name: p.detach().clone() for name, p in lm.named_parameters()}
    targets = lora_targets(lm)
    add_adapters(lm, Lora(rank=3))
    for name, p in lm.named_parameters():
        assert p.requires_grad is ("lora_" in name)
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    truth = lm(input_ids=IDS).logits
    truth.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in lm.parameters() if p.requires_grad)
    merged = merge_adapters(lm)
    torch.testing.assert_close(merged(input_ids=IDS).logits, truth, rtol=1e-4, atol=1e-4)
    assert dict(merged.named_parameters()).keys() == start.keys()
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, start[name])}
    assert changed == {*targets.experts, *(f"{name}.weight" for name in targets.layers)}


@pytest.mark.parametrize("family", ["Mamba", "Mamba2"])
def test_what_mamba_kernels_read_past_the_layer_is_left_out_and_said(family):
    shape = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "state_size": 8}
    more = {"num_heads": 4, "head_dim": 8, "n_groups": 1} if family == "Mamba2" else {}
    targets = lora_targets(make(family, **shape, **more))
    assert targets.layers == ("backbone.layers.0.mixer.in_proj",)
    assert f"{family}Mixer.out_proj" in targets.left_out
