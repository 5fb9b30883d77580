"""The model's states of rows before training, which references, importances, level and monitor share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from deleatur.data.batches import collate, in_batches
from deleatur.distributed.processes import gather
from deleatur.modeling.token_model import TokenModel
from deleatur.requirements import Requirements
from deleatur.types import Encoded, TokenOutputs

KEPT = 2**30  # bytes of states that are kept; rows beyond are read again


class RowStates(NamedTuple):
    """What the model makes of one row's n scored tokens, in the processor's memory."""

    nll: Float[Tensor, " n"]  # nats, fp32
    before: Float[Tensor, "n D"]  # final states at the positions that predict the tokens, in the model's type
    at: Float[Tensor, "n D"]  # at the tokens


class StartPass:
    """Reads rows with a model that is not trained yet, `batch` in one forward. Equals, for each row,

    model(collate([row]), state="both")

    A row that was read is kept, so that whoever asks next does not read it again. All processes have to ask together.
    """

    def __init__(self, model: TokenModel, *, batch: int) -> None:
        self.model, self.batch = model, batch
        self._kept: dict[Encoded, RowStates] = {}
        self._room = KEPT

    def of(self, rows: Iterable[Encoded]) -> Iterator[tuple[Encoded, RowStates]]:
        """Every row once with its states, in an order of its own."""
        known = {row: self._kept.get(row) for row in rows}
        yield from ((row, made) for row, made in known.items() if made is not None)
        for tokens in self._read([row for row, made in known.items() if made is None], state="both"):
            before, at = tokens.hidden.chunk(2, dim=1)
            parts = (_by_row(x, tokens.rows) for x in (tokens.nll.float(), before, at))
            for row, *made in zip(tokens.rows, *parts, strict=True):
                self._keep(row, states := RowStates(*made))
                yield row, states

    def states(self, rows: Iterable[Encoded]) -> Mapping[Encoded, RowStates]:
        """The states of all rows at once."""
        return dict(self.of(rows))

    def after_layer(self, rows: Iterable[Encoded], layer: int) -> Iterator[tuple[Encoded, Float[Tensor, "n D"]]]:
        """Every row once with its scored tokens' states after this decoder layer; they are not kept."""
        for tokens in self._read(list(dict.fromkeys(rows)), layer=layer):
            assert tokens.layer is not None
            yield from zip(tokens.rows, _by_row(tokens.layer, tokens.rows), strict=True)

    def outputs(self, rows: Iterable[Encoded], reads: Requirements) -> Iterator[TokenOutputs]:
        """What an importance reads of the rows, of one or several at a time. Logits and middle layers are not kept."""
        if reads.logits or reads.layer is not None:
            yield from self._read(list(rows), **reads.forward)
            return
        for row, made in self.of(rows):
            hidden = made.at if reads.hidden_state == "own" else made.before
            nll, hidden = (x.to(self.model.device) for x in (made.nll, hidden))
            yield TokenOutputs(nll=nll, hidden=hidden, sequence=nll.new_zeros(len(nll), dtype=torch.long), rows=(row,))

    def mean_nll(self, rows: Iterable[Encoded]) -> float:
        """Mean NLL of the rows' tokens, nats; 0 where there are none."""
        found = [made.nll for _, made in self.of(rows)]
        return float(torch.cat(found).mean()) if found else 0.0

    def _read(self, rows: Sequence[Encoded], **how: Any) -> Iterator[TokenOutputs]:
        parts = [part for _, part in in_batches(rows, self.batch)]
        parts += [collate([])] * (max(gather(len(parts))) - len(parts))  # the others may have more, and all run together
        self.model.eval()
        for part in parts:
            with torch.no_grad():
                tokens = self.model(part.to(self.model.device), **how)
            yield tokens

    def _keep(self, row: Encoded, made: RowStates) -> None:
        size = 2 * made.at.numel() * made.at.element_size()
        if size <= self._room:
            self._kept[row] = made
            self._room -= size


def _by_row(values: Tensor, rows: Sequence[Encoded]) -> Iterator[Tensor]:
    """Each row's part, in memory of its own."""
    return (part.to("cpu", copy=True) for part in values.split([len(row.ids) - row.start for row in rows]))
