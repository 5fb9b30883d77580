"""Low-memory layers against transformers' and PEFT's own: the same states and gradients, less of them kept."""

from __future__ import annotations

import gc
from copy import deepcopy
from functools import partial
from weakref import ref

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from deleatur.data.batches import collate
from deleatur.modeling import low_memory_layers
from deleatur.modeling.loading import add_adapters, checkpoint_activations, merge_adapters
from deleatur.modeling.low_memory_layers import RecomputableTensors, adapted, gated, norm, patch_low_memory_layers
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora

DTYPES = [torch.float32, torch.bfloat16]


def gradients(module, form, x: torch.Tensor) -> list[torch.Tensor]:
    """What comes out for x, and the gradients of a weighted sum of it in x and in the weights."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    with low_memory_layers.recompute_activations():
        out = form(x)
        (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


def no_further_from_the_truth(module, form, dtype, x) -> None:
    """Truth is fp64 on the same rounded numbers."""
    module, exact, x = module.to(dtype), deepcopy(module.to(dtype)).double(), x.to(dtype)
    plain = gradients(module, lambda x: type(module).forward(module, x), x)
    ours = gradients(module, lambda x: form(module, x), x)
    truth = gradients(exact, lambda x: type(exact).forward(exact, x), x.double())
    for mine, theirs, true in zip(ours, plain, truth, strict=True):
        assert mine.dtype == theirs.dtype == dtype
        error, their_error = ((y.double() - true).square().mean().sqrt() for y in (mine, theirs))
        assert error <= 1.2 * their_error + torch.finfo(dtype).eps * true.abs().mean() / 10  # sums in another order


class Exact(LlamaRMSNorm):
    """transformers' norm, which goes to fp32 and no further, in the type of its weights."""

    def forward(self, x):
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_is_as_exact_as_transformers_own(dtype):
    torch.manual_seed(0)
    module = LlamaRMSNorm(48)
    module.weight.data.normal_()
    x = torch.randn(3, 7, 48) * torch.logspace(-2, 2, 7)[:, None]
    module.to(dtype)
    exact = Exact(48).double()
    exact.weight.data.copy_(module.weight)
    plain, ours = (gradients(module, f, x.to(dtype)) for f in (module, lambda x: norm(module, x)))
    for mine, theirs, true in zip(ours, plain, gradients(exact, exact, x.to(dtype).double()), strict=True):
        error, their_error = ((y.double() - true).square().mean().sqrt() for y in (mine, theirs))
        assert error <= 1.1 * their_error + torch.finfo(dtype).eps * true.abs().mean() / 10


@pytest.mark.parametrize("act", ["silu", "gelu_pytorch_tanh", "relu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gated_layer_is_as_exact_as_transformers_own(dtype, act, llama):
    config = deepcopy(llama.config)
    config.hidden_act = act
    torch.manual_seed(0)
    no_further_from_the_truth(LlamaMLP(config), gated, dtype, torch.randn(2, 5, config.hidden_size))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapted_layer_is_as_exact_as_pefts_own(dtype, llama):
    add_adapters(llama, Lora(rank=4, alpha=9))
    torch.manual_seed(0)
    module = llama.model.layers[0].mlp.up_proj
    for p in module.parameters():
        p.data.normal_()
    no_further_from_the_truth(module, adapted, dtype, torch.randn(40, 10, llama.config.hidden_size))


def test_a_merged_or_switched_off_adapter_is_pefts_own(llama):
    add_adapters(llama, Lora(rank=4))
    patch_low_memory_layers(llama)
    module, x = llama.model.layers[0].mlp.up_proj, torch.randn(2, llama.config.hidden_size)
    module.lora_B["default"].weight.data.normal_()
    with_it, without = module(x).detach(), module.base_layer(x).detach()
    assert not torch.allclose(with_it, without)
    module.enable_adapters(False)
    assert torch.equal(module(x), without)
    module.enable_adapters(True)
    merge_adapters(llama)
    torch.testing.assert_close(llama.model.layers[0].mlp.up_proj(x), with_it, rtol=1e-4, atol=1e-5)


@pytest.fixture
def made(monkeypatch):
    """How often something was made again."""
    calls = []
    for name in ("_normed", "_product"):
        own = getattr(low_memory_layers, name)
        monkeypatch.setattr(low_memory_layers, name, lambda *a, own=own, name=name: calls.append(name) or own(*a))
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("rank", [None, 4])
def test_norms_and_products_are_made_once_more_for_the_backward_pass(rank, checkpointing, llama, forget_rows, made):
    """Twice for each layer and once for its product forwards, and the same again backwards, whoever reads them; the
    gradients are those of transformers' own layers."""
    if rank is not None:
        add_adapters(llama, Lora(rank=rank))
    batch, own = collate(forget_rows[:3]), deepcopy(llama)
    if checkpointing:
        checkpoint_activations(llama)
    layers, model = llama.config.num_hidden_layers, TokenModel(llama.train()).prepare()
    made.clear()
    model(batch).nll.sum().backward()
    assert made.count("_product") == 2 * layers
    # what the last norm gives goes to the head; what the first gives wants no gradient, but with trained embeddings
    assert made.count("_normed") == 2 * (2 * layers) + (1 if rank is None or checkpointing else 0)
    plain = TokenModel(own.train()).prepare()
    for module in own.modules():
        vars(module).pop("forward", None)
    made.clear()
    plain(batch).nll.sum().backward()
    assert not made
    for (name, p), q in zip(llama.named_parameters(), own.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_a_new_tensor_at_the_same_address_is_not_mistaken_for_the_old_one():
    known, x = RecomputableTensors(), torch.randn(4, 3)
    known.note(x, lambda: x)
    again = known.find(x)
    assert again is not None
    assert known.find(x.view(12)) is again
    assert known.find(x[:2]) is None
    assert known.find(x.t()) is None
    other = x.detach()
    assert known.find(other) is again
    del x
    assert known.find(other) is None


def test_what_a_layer_can_make_again_goes_with_it():
    """Where nothing is kept of a layer, as under checkpointing, nothing is held for making it again either."""
    held = torch.randn(4, 3)
    gone = ref(held)
    with low_memory_layers.recompute_activations():
        x = torch.randn(4, 3, requires_grad=True) * 2
        low_memory_layers._note(x, partial(torch.clone, held))
        del held
        assert gone() is not None
        del x
        assert gone() is None


class Halved(LlamaRMSNorm):
    def forward(self, hidden_states):
        return super().forward(hidden_states) / 2


def test_what_computes_something_else_stays(llama):
    llama.model.norm = Halved(llama.config.hidden_size)
    llama.model.layers[0].input_layernorm = GemmaRMSNorm(llama.config.hidden_size)
    patch_low_memory_layers(llama)
    assert "forward" not in vars(llama.model.norm)
    assert "forward" not in vars(llama.model.layers[0].input_layernorm)
    assert "forward" in vars(llama.model.layers[1].input_layernorm)


def test_a_copy_runs_on_its_own_weights(llama):
    patch_low_memory_layers(llama)
    other, x = deepcopy(llama), torch.randn(2, llama.config.hidden_size)
    other.model.norm.weight.data.zero_()
    assert not other.model.norm(x).detach().any()
    assert llama.model.norm(x).detach().any()


def test_what_no_backward_pass_runs_through_is_freed():
    """As the layers above the one that RMU steers, at every step: a saved output must not hold its own graph."""
    weight = torch.ones(8, requires_grad=True)

    def with_graph() -> int:
        """Tensors that are there and have a graph."""
        gc.collect()
        return sum(isinstance(o, torch.Tensor) and o.grad_fn is not None for o in gc.get_objects())

    before = with_graph()
    with low_memory_layers.recompute_activations():
        made = (torch.ones(4, 8) * weight).softmax(-1)
    assert with_graph() > before
    del made
    assert with_graph() == before
