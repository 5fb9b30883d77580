"""Layers below the first that is trained give a row the same states at every step: they are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deleatur.modeling.packed_attention import PrefixTree, share
from deleatur.modeling.patches import replace_forward, restore_forwards

KEPT = 2**30  # bytes of states that are kept; other rows go through all layers each time
Run = Callable[[PrefixTree], Any]  # the whole decoder, over packed rows


class Reached(Exception):
    """The first trained layer was about to run."""


class FrozenLayers:
    """A decoder whose first layers are not trained. Equals

    run(tree)

    with the states between kept by row. Rows that are met for the first time go through the lower layers together, which
    rounds otherwise than alone: a training that resumes has to `read` the rows in the order in which it first met them.
    """

    def __init__(self, layers: Sequence[nn.Module], run: Run) -> None:
        trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
        self.depth = trained.index(True) if any(trained) else 0
        self._below, self._first, self._run = layers[: self.depth], layers[self.depth], run
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._room = KEPT

    def run(self, rows: Sequence[Sequence[int]], tree: PrefixTree) -> Any:
        """What the decoder makes of the tree of these rows."""
        self.read(rows)
        found = [self._kept.get(tuple(row)) for row in rows]
        states = [each for each in found if each is not None]
        if len(states) < len(rows):
            return self._run(tree)
        joined = torch.empty(len(tree.ids), *states[0].shape[1:], dtype=states[0].dtype)
        for places, each in zip(tree.places, states, strict=True):
            joined[places] = each
        with ExitStack() as undo:
            undo.callback(self._first.register_forward_pre_hook(lambda module, given: (joined[None], *given[1:])).remove)
            for layer in self._below:
                replace_forward(layer, lambda module, x: x, state_alone=False)
                undo.callback(restore_forwards, layer, inner=False)
            return self._run(tree)

    @torch.no_grad()
    def read(self, rows: Sequence[Sequence[int]]) -> None:
        """Compute and keep the states of those rows that are not kept yet, as far as there is room."""
        new = [row for row in dict.fromkeys(map(tuple, rows)) if row not in self._kept]
        if new and self._room > 0:
            for row, made in zip(new, self.before(new), strict=True):
                if self._room <= 0:
                    break
                self._kept[row] = made
                self._room -= made.numel() * made.element_size()

    def before(self, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "L D"]]:
        """The rows' states before the first trained layer, all lower ones run."""
        seen: list[Tensor] = []

        def stop(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            """Keep what the layer is called with, and go no further."""
            seen.append(given[0])
            raise Reached

        hook = self._first.register_forward_pre_hook(stop)
        tree = share(rows)
        try:
            with suppress(Reached):
                self._run(tree)
        finally:
            hook.remove()
        return [seen[0][0][places] for places in tree.places]
