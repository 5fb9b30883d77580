"""TokenModel: the only place that runs the network, and the only place that shifts by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from deleatur.distributed.processes import full_tensor, is_sharded
from deleatur.errors import ModelError, why
from deleatur.modeling.chunked_divergence import linear_divergence
from deleatur.modeling.chunked_nll import Readout, linear_nll, nll_of, token_statistics
from deleatur.modeling.decoder import Decoder
from deleatur.modeling.low_memory_layers import recompute_activations
from deleatur.requirements import HiddenState
from deleatur.types import Batch, Divergence, Teacher, TokenOutputs, TokenStatistics

FACTORS = ("logit_scale", "lm_head_multiplier")  # families' names for what the logits are multiplied by
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # and for their soft cap
ENTRIES = 2**26  # of logits at once: a quarter of a gigabyte in fp32


class TokenModel(nn.Module):
    """A causal language model whose forward returns outputs for scored tokens only.

    `lm` is the Hugging Face model (with or without adapters inside). The decoder runs over all rows end to end, each
    attending to itself alone, on CPU with common beginnings once; where that is not possible (with a warning), over the
    padded batch without a mask. The head runs at the positions that predict a scored token, and nowhere else.

    Args:
        lm: The model, which is wrapped and not copied.

    Raises:
        ModelError: The head's output is not what `lm` itself predicts, so that no likelihood would be right.

    Examples:
        >>> from deleatur import TokenModel
        >>> from deleatur.data.batches import collate
        >>> from deleatur.data.encode import encode_all, make_encoder
        >>> from deleatur.data.rows import rows_from
        >>> from deleatur.settings import Data
        >>> rows = encode_all(make_encoder(tokenizer, Data()), rows_from(forget, name="forget"))
        >>> network = TokenModel(model)
        >>> tokens = network(collate(rows), logits=True)
        >>> tokens.nll.shape == tokens.logits.shape[:1], tokens.hidden.shape[1] == network.width
        (True, True)
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm, self.readout, self.decoder = lm, Readout(self._read), Decoder(lm)
        self._check_head()

    def prepare(self) -> TokenModel:
        """Use every faster implementation that gives this model's own numbers, listed in `notes`; `undo` restores the model.

        Returns:
            The model itself.
        """
        self.decoder.prepare()
        return self

    def undo(self) -> None:
        """Restore the language model's own forward and attention."""
        self.decoder.undo()

    def frozen_once(self) -> AbstractContextManager[None]:
        """Within, layers below the first that is trained run once for each row, where that gives the states that it has."""
        return self.decoder.frozen_once()

    def read(self, batch: Batch) -> None:
        """Within `frozen_once`, keep what is computed once for each row of the batch, as the forward pass would."""
        self.decoder.read([row.ids for row in batch.rows])

    def enable_gpu_kernels(self) -> None:
        """Use the GPU's kernels, once the weights are there. One that changes the states is left out, with a warning."""
        self.decoder.enable_gpu_kernels()

    @property
    def notes(self) -> list[str]:
        """What `prepare` changed, in sentences."""
        return self.decoder.notes

    @property
    def packs(self) -> bool:
        """Do rows go through the decoder end to end on the processor?"""
        return self.decoder.packs

    def forward(
        self,
        batch: Batch,
        *,
        state: HiddenState | Literal["both"] = "own",
        statistics: bool | Bool[Tensor, " N"] = False,
        logits: bool = False,
        layer: int | None = None,
        teacher: Teacher | None = None,
    ) -> TokenOutputs:
        """Outputs for the N scored tokens of the batch, flat and without padding.

        Args:
            batch: Sequences (B, L), the flat indices of their scored tokens (N,), and their rows.
            state: Whose final hidden state (N, D) is returned: the token's "own", the "predicting" position's, or "both",
                (N, 2D), the predicting one first.
            statistics: Also first choice, mean and deviation of log p at each token, or at those chosen, (N,) each.
            logits: Also the logits that predict each token, (N, V).
            layer: Also each token's state after this decoder layer (of the last layer after the final norm), (N, D).
            teacher: The start model's predictions; then also the divergence from them, (N,).

        Returns:
            The NLL (N,) in nats, hidden states (N, D), the sequence of each token (N,), the rows, and what was requested.
        """
        made, scored, predicting = self._decode(batch, output_hidden_states=layer is not None)
        states = made.last_hidden_state.flatten(0, 1)
        before = states[predicting]
        target = batch.ids.flatten()[batch.scored]
        start = None if teacher is None else teacher.states(batch.rows).to(before.device, before.dtype)
        hidden = before if state == "predicting" else states[scored]
        nll, raw, token_stats, divergence = self.readout(before, target, statistics, logits, start, teacher)
        return TokenOutputs(
            nll=nll,
            hidden=torch.cat([before, hidden], 1) if state == "both" else hidden,
            sequence=batch.sequence,
            rows=batch.rows,
            statistics=token_stats,
            logits=raw,
            divergence=divergence,
            layer=None if layer is None else made.hidden_states[layer + 1].flatten(0, 1)[scored],
        )

    def _read(
        self,
        before: Float[Tensor, "N D"],
        target: Int[Tensor, " N"],
        statistics: bool | Bool[Tensor, " N"],
        logits: bool,
        start: Float[Tensor, "N D"] | None,
        teacher: Teacher | None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"] | None, TokenStatistics | None, Divergence | None]:
        """NLL of the targets; on request the logits, what else the head says, and the divergence from a teacher."""
        raw = self.head(before) if logits else None
        if statistics is not False:
            of = None if statistics is True else statistics.to(before.device)
            token_stats = token_statistics(before, target, self.head, of=of, chunk=max(1, self._chunk // 2))
            return token_stats.nll, raw, token_stats, None
        if teacher is not None and start is not None:
            heads = self.head, teacher.head
            nll, divergence = linear_divergence(before, start, target, *heads, chunk=self._chunk)
            return nll, raw, None, divergence
        if raw is None:
            return linear_nll(before, target, self.head, chunk=self._chunk, frozen=self._head_is_frozen), None, None, None
        return nll_of(raw, target), raw, None, None

    @recompute_activations()
    def _decode(self, batch: Batch, **extra: bool) -> tuple[Any, Int[Tensor, " N"], Int[Tensor, " N"]]:
        """What the decoder makes of the batch, and where in it each scored token and the one before it lie. Packed it
        equals, at these places,

        base_model(input_ids=batch.ids), batch.scored, batch.scored - 1
        """
        rows = [row.ids for row in batch.rows] or [(0,)]
        made, places = self.decoder.run(rows, batch.ids.device, **extra)
        if places is None:
            return self.decoder.network(input_ids=batch.ids, use_cache=False, **extra), batch.scored, batch.scored - 1
        place = pad_sequence(places, batch_first=True).flatten().to(batch.ids.device)
        return made, place[batch.scored], place[batch.scored - 1]

    def head(self, hidden: Float[Tensor, "N D"], matrix: Callable[[Tensor], Tensor] | None = None) -> Float[Tensor, "N V"]:
        """Logits, with the scaling and soft cap of some families behind the matrix (`matrix` instead of the model's)."""
        config = self.lm.config.get_text_config()
        logits = matrix(hidden) if matrix else linear(hidden, self._matrix.weight, self._matrix.bias)
        for scale in filter(None, (getattr(config, name, None) for name in FACTORS)):
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        for cap in filter(None, (getattr(config, name, None) for name in CAPS)):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def generate(self, ids: Int[Tensor, "B L"], **extra: Any) -> Any:
        """transformers' own; by way of this module, so that sharded weights are gathered."""
        with self.decoder.original_attention():
            return self.lm.generate(ids, synced_gpus=is_sharded(self), **extra)  # pyright: ignore[reportCallIssue]

    @property
    def width(self) -> int:
        """D, the width of the hidden state."""
        return self._matrix.in_features

    @property
    def vocabulary(self) -> int:
        """V, the size of the vocabulary."""
        return self._matrix.out_features

    @property
    def dtype(self) -> torch.dtype:
        """The type of the head's weight."""
        return self._matrix.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the head's weight."""
        return self._matrix.weight.device

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return int(self.lm.config.get_text_config().num_hidden_layers)

    @property
    def layer_list(self) -> nn.ModuleList | None:
        """The decoder's layers in order; None for a family that does not hold them in one list."""
        lists = (module for module in self.lm.modules() if isinstance(module, nn.ModuleList))
        return next((found for found in lists if len(found) == self.layers), None)

    def frozen_head(self) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]:
        """The head as it is now: a copy, unless it is not trained."""
        shared = self._head_is_frozen or is_sharded(self._matrix)
        return self._head_of(self._matrix if shared else deepcopy(self._matrix).requires_grad_(False))

    def open_head(self) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]:
        """The head for use outside of `forward`, until the next step; complete, also where it is sharded."""
        return self._head_of(self._matrix)

    def head_matrix(self) -> Float[Tensor, "V D"]:
        """The head's weight as it is now, all of it; not to be trained through."""
        weight = self._matrix.weight
        return (full_tensor(weight) if is_sharded(self._matrix) else weight).detach()

    def _head_of(self, matrix: nn.Linear) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]:
        if is_sharded(matrix):
            made = {name: full_tensor(p).detach() for name, p in matrix.named_parameters()}
            return lambda hidden: self.head(hidden, partial(linear, **made))
        return lambda hidden: self.head(hidden, matrix)

    @property
    def _head_is_frozen(self) -> bool:
        return not any(p.requires_grad for p in self._matrix.parameters())

    @property
    def _chunk(self) -> int:
        """Positions whose logits may exist at once."""
        return max(1, ENTRIES // self.vocabulary)

    @property
    def _matrix(self) -> nn.Linear:
        matrix: Any = self.lm.get_output_embeddings()
        if matrix is None:
            raise ModelError(f"{type(self.lm).__name__} has no language-model head; a causal language model is needed")
        return matrix

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a family that does more between its states and its logits than `head` knows."""
        with self.decoder.probing() as ids:
            try:
                states = self.decoder.network(input_ids=ids[None], use_cache=False).last_hidden_state[0]
                expected = self.lm(input_ids=ids[None]).logits[0].float()
            except (LookupError, TypeError, ValueError, AttributeError) as e:  # not for want of memory
                seen = f"{type(self.lm).__name__} cannot run four tokens ({type(e).__name__}: {why(e)})"
                raise ModelError(f"{seen}; fix its config.json, or give another model") from e
            logits = self.head(states).float()
        if not bool(expected.isfinite().all()):
            raise ModelError(
                f"{type(self.lm).__name__} computes logits that are not finite; use an intact copy of the model"
            )
        near = 1e-4 if self.dtype == torch.float32 else 1e-2
        if not torch.allclose(logits, expected, rtol=near, atol=near * float(expected.abs().max())):
            raise ModelError(
                f"{type(self.lm).__name__} does something between its decoder and its logits that deleatur does not "
                f"know (largest difference {float((logits - expected).abs().max()):.3g}); please report the family"
            )
