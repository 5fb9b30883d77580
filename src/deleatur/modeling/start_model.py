"""The start model after training, for one more pass: loaded again, or its kept weights put back for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn

from deleatur.distributed.processes import is_sharded, place_model
from deleatur.errors import DeleaturError, ModelError
from deleatur.modeling.loading import load
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Precision

StartModel = Callable[[], AbstractContextManager[TokenModel | None]]  # None where it cannot be had
Weights = Mapping[str, Tensor]


def other_model(name: str, precision: Precision) -> TokenModel:
    """Another model that reads the run's tokens."""
    other = TokenModel(load(name, precision=precision)[0]).prepare()
    place_model(other)
    return other


@contextmanager
def loaded_again(trained: TokenModel, name: str, precision: Precision) -> Iterator[TokenModel]:
    """The model of this name; on an accelerator `trained` waits in the memory of the processor meanwhile.

    Weights that lie over several processes stay where they are: each holds its share of both. A model that was trained in
    4 bits comes back in its own precision. Raises ModelError where it cannot be loaded or has another vocabulary.
    """
    device = trained.device
    moves = device.type != "cpu" and not is_sharded(trained)
    if moves:
        trained.to("cpu")
    try:
        start = other_model(name, precision)
        if start.vocabulary != trained.vocabulary:
            raise ModelError(
                f"{name} has a vocabulary of {start.vocabulary} tokens, the evaluated model of {trained.vocabulary}; "
                "give a model with the same tokenizer"
            )
        yield start
        del start
    finally:
        if moves:
            trained.to(device)


@contextmanager
def loaded_if_there(
    trained: TokenModel, name: str, precision: Precision, phase: Callable[[str], None]
) -> Iterator[TokenModel | None]:
    """`loaded_again`, or None where that fails, so that a finished training does not fail because a folder was moved."""
    with ExitStack() as stack:
        try:
            start = stack.enter_context(loaded_again(trained, name, precision))
        except (DeleaturError, torch.OutOfMemoryError) as e:
            phase(f"Whether the answers are coherent is not measured: {e}")
            start = None
        yield start


def weights_of(model: nn.Module) -> Weights:
    """A copy of the weights in the processor's memory."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}


@contextmanager
def with_weights(model: TokenModel, weights: Weights) -> Iterator[TokenModel]:
    """The model itself with other weights for a while, exchanged one by one: nothing more on the device than one of them.

    Raises ModelError where the weights are not this model's.
    """
    parameters = dict(model.lm.named_parameters())
    if missing := parameters.keys() - weights.keys():
        raise ModelError(f"the weights of the start model lack {min(missing)}; they are of another model")
    held = weights_of(model.lm)
    _put(parameters, weights)
    try:
        yield model
    finally:
        _put(parameters, held)


@torch.no_grad()
def _put(parameters: Weights, weights: Weights) -> None:
    for name, weight in parameters.items():
        weight.copy_(weights[name])
