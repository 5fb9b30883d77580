"""Norms, gated and adapted layers that keep less for the backward pass than transformers' and PEFT's, or are quicker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from inspect import signature
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from deleatur.distributed import deepspeed
from deleatur.modeling.patches import replace_forward


class Recomputable:
    """How to recompute a tensor. The result stays as long as it is referenced."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self.make = make
        self.made: Tensor | None = None

    def view(self, shape: torch.Size) -> Tensor:
        """The tensor in this shape, recomputed where it is needed for the first time."""
        if self.made is None:
            self.made = self.make()
        return self.made.view(shape)


class RecomputableTensors:
    """Which tensors can be recomputed, by address, as long as they exist."""

    def __init__(self) -> None:
        self._at: dict[int, ref[Tensor]] = {}

    def note(self, tensor: Tensor, make: Callable[[], Tensor]) -> None:
        """Remember how to recompute a tensor."""
        tensor.again = Recomputable(make)  # pyright: ignore[reportAttributeAccessIssue]
        self._at[tensor.data_ptr()] = ref(tensor)

    def find(self, x: Tensor) -> Recomputable | None:
        """How to recompute this tensor; None where that is unknown."""
        stored = self._at.get(x.data_ptr(), lambda: None)()  # where it is gone, something else may lie in its place
        if stored is None or (stored.numel(), stored.dtype) != (x.numel(), x.dtype) or not x.is_contiguous():
            return None
        return stored.again  # pyright: ignore[reportAttributeAccessIssue]


_known: ContextVar[RecomputableTensors | None] = ContextVar("known", default=None)


@contextmanager
def recompute_activations() -> Iterator[None]:
    """Inside, outputs of norms and gated products are not saved for backward, which recomputes them.

    Layers under activation checkpointing save nothing anyway.
    """
    known = RecomputableTensors()

    def keep(x: Tensor) -> Tensor | tuple[Recomputable, torch.Size]:
        """What is saved for backward: the tensor, or how it is made again.

        Without its history: a saved output would hold its own graph, which is then freed by a backward pass alone.
        """
        again = known.find(x)
        return x.detach() if again is None else (again, x.shape)

    def give(kept: Tensor | tuple[Recomputable, torch.Size]) -> Tensor:
        """The tensor that was saved or is made again."""
        return kept if isinstance(kept, Tensor) else kept[0].view(kept[1])

    token = _known.set(known)
    try:
        with saved_tensors_hooks(keep, give):
            yield
    finally:
        _known.reset(token)


def _note(made: Tensor, make: Callable[[], Tensor]) -> Tensor:
    known = _known.get()
    if known is not None and made.requires_grad:
        known.note(made, make)
    return made


@torch.no_grad()
def patch_low_memory_layers(lm: PreTrainedModel) -> None:
    """Run the norms, gated and adapted layers of this one model by `norm`, `gated` and `adapted`, where they are that.

    In place. One of each class and settings is tried: what computes something else, or takes more than a state (the norms
    of Mamba-2 take a gate), stays as it is. Called with more than it was tried with, a layer runs its own forward.
    """
    same: dict[tuple[Any, ...], bool] = {}
    for module in lm.modules():
        for form, names in FORMS.items():
            if "forward" in vars(module) or not all(hasattr(module, name) for name in names):
                continue
            key = (type(module), form, *_settings(module))
            if key not in same:
                same[key] = _takes_one_state(module) and _equal(module, form)
            if same[key]:
                replace_forward(module, form)


def _settings(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """What may make a layer compute something else than another one of its class."""
    plain = {n: v for n, v in vars(module).items() if isinstance(v, bool | int | float | str)}
    act = getattr(module, "act_fn", None)
    inner = {} if act is None else {"act_fn": repr(act) if isinstance(act, nn.Module) else act}
    return tuple(sorted((n, str(v)) for n, v in (plain | inner).items()))


def _takes_one_state(module: nn.Module) -> bool:
    """Is a state all that the class's own forward takes by name?"""
    taken = signature(type(module).forward).parameters.values()
    return sum(p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in taken) == 2  # itself and the state


def norm(module: Any, x: Tensor) -> Tensor:
    """RMS norm. Equals

    wide = x.float()
    module.weight * (wide * (wide.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()).to(x.dtype)
    """
    out, scale = _Norm.apply(x, module.weight, module.variance_epsilon)  # pyright: ignore
    return _note(out, partial(_normed, x.detach(), module.weight.detach(), scale))


def gated(module: Any, x: Tensor) -> Tensor:
    """A gated layer. Equals

    module.down_proj(module.act_fn(module.gate_proj(x)) * module.up_proj(x))
    """
    gate, up = module.gate_proj(x), module.up_proj(x)
    out: Any = _Gated.apply(gate, up, module.act_fn)
    return module.down_proj(_note(out, partial(_product, gate.detach(), up.detach(), module.act_fn)))


def adapted(module: Any, x: Tensor) -> Tensor:
    """A linear layer with a low-rank adapter without dropout. Equals

        base, (a, b) = module.base_layer, (module.lora_A["default"], module.lora_B["default"])
        base(x) + b(a(x)) * module.scaling["default"]

    with the product, the scaling and the sum in one.
    """
    low = module.lora_B["default"].weight
    if module.disable_adapters or module.merged or deepspeed.is_partitioned(low):
        return type(module).forward(module, x)
    base, inner = module.base_layer(x), module.lora_A["default"](x)
    made = torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), low.t(), alpha=module.scaling["default"])
    return made.view(base.shape)


Form = Callable[[Any, Tensor], Tensor]
FORMS: dict[Form, tuple[str, ...]] = {
    norm: ("weight", "variance_epsilon"),
    gated: ("gate_proj", "up_proj", "down_proj", "act_fn"),
    adapted: ("lora_A", "lora_B", "base_layer"),
}


def _equal(module: nn.Module, form: Form) -> bool:
    """Do they compute the same of two states? Some families' classes have the names of others' and do something else."""
    weight = next(module.parameters())
    try:
        x = torch.linspace(-3, 2, 2 * weight.shape[-1], dtype=weight.dtype, device=weight.device).view(2, -1)
        x = x if form is adapted else torch.cat([x, 64 * x])  # some families clamp what is large
        return torch.allclose(module(x), form(module, x), rtol=10 * torch.finfo(x.dtype).eps, atol=1e-6)
    except Exception:
        return False


def _normed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return weight * (x.float() * scale).to(x.dtype)


def _product(gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    return act(gate).mul_(up)


class _Norm(torch.autograd.Function):
    """RMSNorm that saves its input and one scale per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The normed states, and their scales."""
        wide = x.float()
        scale = (torch.linalg.vecdot(wide, wide)[..., None] / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return _normed(x, weight, scale), scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the states and of the weight."""
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        of_weight = (grads[0] * unit.to(x.dtype)).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        wide = (grads[0] * weight).to(x.dtype).float()
        along = torch.linalg.vecdot(wide, unit)[..., None] / x.shape[-1]
        return wide.sub_(unit.mul_(along)).mul_(scale).to(x.dtype), of_weight, None


class _Gated(torch.autograd.Function):
    """act(gate) · up that saves its two inputs alone."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """The product."""
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return _product(gate, up, act)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of gate and up; act(gate) is computed again."""
        gate, up = ctx.saved_tensors
        with torch.enable_grad():
            made = ctx.act(open := gate.detach().requires_grad_())
        (of_gate,) = torch.autograd.grad(made, open, grads[0] * up)
        return of_gate, made.detach().mul_(grads[0]), None
