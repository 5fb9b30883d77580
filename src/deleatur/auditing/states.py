"""Hidden states between a model's layers: read, moved along a direction, or replaced by another model's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deleatur.data.batches import collate
from deleatur.errors import ModelError
from deleatur.modeling.token_model import TokenModel
from deleatur.types import Encoded


def layers_of(model: TokenModel) -> nn.ModuleList:
    """The decoder's layers in order. Raises ModelError for a family that does not keep them in one list."""
    if model.layer_list is None:
        raise ModelError(f"{type(model.lm).__name__} does not hold its layers in one list; leave steer and depth out")
    return model.layer_list


@contextlib.contextmanager
def changed(model: TokenModel, change: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Meanwhile what a layer hands on (1 or B, L, D) is what `change` makes of it."""

    def hook(f: Callable[[Tensor], Tensor]) -> Callable:
        """A forward hook that applies `f` to a layer's output."""

        def run(module: nn.Module, args: object, out: Tensor | tuple) -> Tensor | tuple:
            """The layer's output, changed."""
            return (f(out[0]), *out[1:]) if isinstance(out, tuple) else f(out)

        return run

    layers = layers_of(model)
    handles = [layers[k].register_forward_hook(hook(f)) for k, f in change.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def states(model: TokenModel, row: Encoded) -> Float[Tensor, "layers n D"]:
    """What each layer hands on at the positions that predict the row's n scored tokens; fp32, on the CPU."""
    seen: dict[int, Tensor] = {}

    def keep(k: int) -> Callable[[Tensor], Tensor]:
        """A change of nothing that stores the states after layer `k`."""

        def run(out: Tensor) -> Tensor:
            """The output as it is, its states stored."""
            seen[k] = out[0, row.start - 1 : len(row.ids) - 1].float().cpu()
            return out

        return run

    with changed(model, {k: keep(k) for k in range(model.layers)}):
        model(collate([row]).to(model.device))
    return torch.stack([seen[k] for k in range(model.layers)])


def moved(directions: Mapping[int, Float[Tensor, " D"]]) -> dict[int, Callable[[Tensor], Tensor]]:
    """Each layer's states moved by a vector, at every position."""
    return {k: lambda out, v=v: out + v.to(out.device, out.dtype) for k, v in directions.items()}


@torch.no_grad()
def nll_with(
    model: TokenModel, row: Encoded, layer: int, places: Sequence[int], other: Float[Tensor, "m D"]
) -> Float[Tensor, " n"]:
    """NLL of the row's scored tokens where, after `layer`, the states that predict those at `places` are `other`."""

    def replace(out: Tensor) -> Tensor:
        """The layer's output with `other` at the places."""
        new = out.clone()
        new[0, [row.start - 1 + k for k in places]] = other.to(out.device, out.dtype)
        return new

    with changed(model, {layer: replace}):
        return model(collate([row]).to(model.device)).nll.float().cpu()
