"""Which weights low-rank adapters go onto, and which they leave as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

PAST_THE_LAYER = ("out_proj", "x_proj", "dt_proj")  # of a Mamba block: its kernels read these weights past the layers


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraTargets:
    """Names within the model."""

    layers: tuple[str, ...]  # linear layers
    experts: tuple[str, ...]  # parameters with a matrix for each expert
    left_out: tuple[str, ...]  # kinds of matrices that are neither: Class.parameter


@torch.no_grad()
def lora_targets(model: PreTrainedModel) -> LoraTargets:
    """All linear layers but the head, and the experts that are one tensor together."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    past = {f"{name}.{part}" for name, module in model.named_modules() if _is_mamba(module) for part in PAST_THE_LAYER}
    layers: list[str] = []
    experts: list[str] = []
    left_out: dict[str, None] = {}
    for name, module in model.named_modules():
        if module in ends or isinstance(module, nn.Embedding | nn.modules.conv._ConvNd):
            continue
        if name not in past and _is_linear(module):
            layers.append(name)
            continue
        for parameter, p in module.named_parameters(recurse=False):
            if p.ndim == 3 and p.is_floating_point() and type(module).__name__.endswith("Experts"):
                experts.append(f"{name}.{parameter}")
            elif p.ndim > 1 and min(p.shape) > 1 and not parameter.endswith("bias"):
                parent, _, child = name.rpartition(".")
                kind = f"{type(model.get_submodule(parent)).__name__}.{child}" if name in past else type(module).__name__
                left_out[kind if name in past else f"{kind}.{parameter}"] = None
    return LoraTargets(layers=tuple(layers), experts=tuple(experts), left_out=tuple(left_out))


def _is_mamba(module: nn.Module) -> bool:
    return {"A_log", "D"} <= {name for name, _ in module.named_parameters(recurse=False)}


def _is_linear(module: nn.Module) -> bool:
    """A linear layer, also of a class of a family's own; routers among those give more than a product."""
    if isinstance(module, Conv1D) or not isinstance(module, nn.Linear):
        return isinstance(module, Conv1D)
    if type(module).forward is nn.Linear.forward or hasattr(module.weight, "quant_state"):
        return True
    x = torch.linspace(-1, 1, module.in_features, dtype=module.weight.dtype, device=module.weight.device)[None]
    try:
        out = module(x)
    except Exception:
        return False
    return isinstance(out, Tensor) and torch.allclose(out, linear(x, module.weight, module.bias), rtol=1e-2, atol=1e-3)
