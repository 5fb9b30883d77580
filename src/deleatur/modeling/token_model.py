"""TokenModel: the only place that runs the network, and the only place that shifts by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from deleatur.distributed.processes import full_tensor, is_sharded
from deleatur.errors import ModelError
from deleatur.modeling.chunked_divergence import linear_divergence
from deleatur.modeling.chunked_nll import Readout, linear_nll, nll_of, token_statistics
from deleatur.modeling.gpu_kernels import by_positions, fuse
from deleatur.modeling.low_memory_layers import patch_low_memory_layers, recompute_activations
from deleatur.modeling.packed_attention import Growing, Grown, Tree, attend_through, packed, share
from deleatur.requirements import HiddenState
from deleatur.types import Batch, Divergence, Teacher, TokenOutputs, TokenStatistics

ENTRIES = 2**26  # of logits at once: a quarter of a gigabyte in fp32


class TokenModel(nn.Module):
    """A causal language model whose forward says something of scored tokens only.

    `lm` is the Hugging Face model (with or without adapters inside). The decoder runs over all rows end to end, each
    attending to itself alone, on CPU with what several begin with once; where that can't be (a warning says so), over the
    padded batch without a mask. The head runs at the positions that predict a scored token, and nowhere else.

    Args:
        lm: The model, which is wrapped and not copied.

    Raises:
        ModelError: The head's output is not what `lm` itself predicts, so that no likelihood would be right.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm, self.readout = lm, Readout(self._read)
        self.notes: list[str] = []  # what is done otherwise than the model came
        self._positions, self._gpu_kernels_enabled = "", False  # the attention that keeps rows apart by their positions
        patch_low_memory_layers(lm)
        with self._looking() as probe:
            self._check_head(probe)
            self.packs: bool = self._can_pack(probe)

    @torch.no_grad()
    def enable_gpu_kernels(self) -> None:
        """Use the GPU's kernels, once the weights are there. What changes the states is left out, with a warning."""
        if self.device.type != "cuda" or self._gpu_kernels_enabled:
            return
        self._gpu_kernels_enabled = True
        attend_through(self.lm, False)
        self.packs = False
        with self._looking() as probe:
            truth = self._alone(texts := _texts(probe))
            self._fuse(texts, truth)
            self._pack_by_positions(by_positions(self.lm), texts, truth)

    @contextmanager
    def own_attention(self) -> Iterator[None]:
        """Over padded rows meanwhile: with a cache, or in another type than the weights', the other attention may fail."""
        now = self.lm.config._attn_implementation
        if self._positions:
            self.lm.config._attn_implementation = "sdpa" if self.lm._supports_sdpa else "eager"
        try:
            yield
        finally:
            self.lm.config._attn_implementation = now

    def forward(
        self,
        batch: Batch,
        *,
        state: HiddenState = "own",
        statistics: bool = False,
        logits: bool = False,
        layer: int | None = None,
        teacher: Teacher | None = None,
    ) -> TokenOutputs:
        """Outputs for the N scored tokens of the batch, flat and without padding.

        Args:
            batch: Sequences (B, L), the flat indices of their scored tokens (N,), and their rows.
            state: Whose final hidden state (N, D) is handed out: the token's "own", or the "predicting" position's.
            statistics: Also first choice, mean and deviation of log p at each token, (N,) each.
            logits: Also the logits that predict each token, (N, V).
            layer: Also each token's state after this decoder layer (of the last layer after the final norm), (N, D).
            teacher: The start model's predictions; then also the divergence from them, (N,).

        Returns:
            The NLL (N,) in nats, hidden states (N, D), the sequence of each token (N,), the rows, and what was asked for.
        """
        made, scored, predicting = self._decode(batch, output_hidden_states=layer is not None)
        states = made.last_hidden_state.flatten(0, 1)
        before = states[predicting]
        target = batch.ids.flatten()[batch.scored]
        start = None if teacher is None else teacher.states(batch.rows).to(before.device, before.dtype)
        nll, raw, token_stats, divergence = self.readout(before, target, statistics, logits, start, teacher)
        return TokenOutputs(
            nll=nll,
            hidden=before if state == "predicting" else states[scored],
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
        statistics: bool,
        logits: bool,
        start: Float[Tensor, "N D"] | None,
        teacher: Teacher | None,
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N V"] | None, TokenStatistics | None, Divergence | None]:
        """NLL of the targets; on request the logits, what else the head says, and the divergence from a teacher."""
        raw = self.head(before) if logits else None
        if statistics:
            token_stats = token_statistics(before, target, self.head, chunk=max(1, self._chunk // 2))
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
        if self._positions and self.lm.config._attn_implementation == self._positions:
            ends = zip(rows, accumulate(map(len, rows)), strict=True)
            places = [torch.arange(end - len(row), end) for row, end in ends]
            made = self._run_by_positions(rows, **extra)
        elif self.packs and batch.ids.device.type == "cpu":
            tree = share(rows)
            places, made = list(tree.places), self.run_packed(tree, **extra)
        else:
            return self.lm.base_model(input_ids=batch.ids, use_cache=False, **extra), batch.scored, batch.scored - 1
        place = pad_sequence(places, batch_first=True).flatten().to(batch.ids.device)
        return made, place[batch.scored], place[batch.scored - 1]

    def _run_by_positions(self, rows: Sequence[Sequence[int]], **extra: bool) -> Any:
        """What the decoder makes of rows that lie end to end, where the attention takes position 0 for another row."""
        ids = torch.tensor([token for row in rows for token in row], device=self.device)
        at = torch.cat([torch.arange(len(row), device=self.device) for row in rows])
        return self.lm.base_model(input_ids=ids[None], position_ids=at[None], use_cache=False, **extra)

    def run_packed(self, tree: Tree, **extra: bool) -> Any:
        """What the decoder makes of a tree's tokens."""
        with packed(tree):
            return self._run_row(tree.ids, tree.at, **extra)

    def run_next(self, ids: Int[Tensor, " B"], growing: Growing) -> Any:
        """What it makes of one more token for each sequence."""
        with packed(growing):
            return self._run_row(ids, growing.at)

    def _run_row(self, ids: Int[Tensor, " T"], at: Int[Tensor, " T"], **extra: bool) -> Any:
        seen = torch.ones_like(ids)[None]  # a mask of its own keeps transformers from guessing sequences from positions
        return self.lm.base_model(input_ids=ids[None], attention_mask=seen, position_ids=at[None], use_cache=False, **extra)

    def head(self, hidden: Float[Tensor, "N D"], matrix: Callable[[Tensor], Tensor] | None = None) -> Float[Tensor, "N V"]:
        """Logits, with the scaling and soft cap of some families behind the matrix (`matrix` instead of the model's)."""
        config = self.lm.config.get_text_config()
        logits = matrix(hidden) if matrix else linear(hidden, self._matrix.weight, self._matrix.bias)
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def generate(self, ids: Int[Tensor, "B L"], **extra: Any) -> Any:
        """transformers' own; by way of this module, so that sharded weights are gathered."""
        with self.own_attention():
            return self.lm.generate(ids, synced_gpus=is_sharded(self), **extra)  # pyright: ignore[reportCallIssue]

    @property
    def width(self) -> int:
        """D, the width of the hidden state."""
        return self._matrix.in_features

    @property
    def vocabulary(self) -> int:
        """V, how many tokens the model knows."""
        return self._matrix.out_features

    @property
    def dtype(self) -> torch.dtype:
        return self._matrix.weight.dtype

    @property
    def device(self) -> torch.device:
        return self._matrix.weight.device

    @property
    def layers(self) -> int:
        """How many decoder layers there are."""
        return int(self.lm.config.get_text_config().num_hidden_layers)

    def frozen_head(self) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, "N V"]]:
        """The head as it is now: a copy, unless it is not trained."""
        own = self._head_is_frozen or is_sharded(self._matrix)
        return self._head_of(self._matrix if own else deepcopy(self._matrix).requires_grad_(False))

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
        """Positions whose logits may stand at once."""
        return max(1, ENTRIES // self.vocabulary)

    @property
    def _matrix(self) -> nn.Linear:
        matrix = self.lm.get_output_embeddings()
        if matrix is None:
            raise ModelError(f"{type(self.lm).__name__} has no language-model head; a causal language model is needed")
        return matrix  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def _check_head(self, ids: Int[Tensor, " L"]) -> None:
        """Refuse a family that does more between its states and its logits than `head` knows."""
        states = self.lm.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        ours, theirs = self.head(states).float(), self.lm(input_ids=ids[None]).logits[0].float()
        if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.abs().max())):
            raise ModelError(
                f"{type(self.lm).__name__} does something between its decoder and its logits that deleatur does not "
                f"know (largest difference {float((ours - theirs).abs().max()):.3g}); please report the family"
            )

    @torch.no_grad()
    def _can_pack(self, ids: Int[Tensor, " L"]) -> bool:
        """Has a text between others, and grown by a token, the states that it has alone? Else all is as before."""
        recurrent = getattr(self.lm, "_is_stateful", False)  # rows end to end would go on from one another's state
        if self.device.type != "cpu" or recurrent or not attend_through(self.lm):
            return False
        truth = self._alone(texts := _texts(ids))
        with self._trying("run without padding", lambda: attend_through(self.lm, False)):
            grown = Grown()
            tree = share([t[:-1].tolist() for t in texts], grown)
            first = self.run_packed(tree).last_hidden_state[0]
            growing = Growing(grown=grown, at=torch.tensor([len(t) - 1 for t in texts]))
            last = self.run_next(torch.stack([t[-1] for t in texts]), growing).last_hidden_state[0]
            seen = torch.cat([x for places, end in zip(tree.places, last, strict=True) for x in (first[places], end[None])])
            self._require_same(seen, truth)
            return True
        return False

    def _pack_by_positions(self, names: Sequence[str], texts: list[Tensor], truth: Tensor) -> None:
        """Take the first of these attentions through which texts end to end have the states that each has alone."""
        config, own = self.lm.config, self.lm.config._attn_implementation
        for name in names:
            with self._trying(f"run without padding through {name}", lambda: setattr(config, "_attn_implementation", own)):
                config._attn_implementation = name
                self._require_same(self._run_by_positions([t.tolist() for t in texts]).last_hidden_state[0], truth)
                self._positions = name
                self.notes.append(f"Rows go end to end through {name}")
                return

    def _fuse(self, texts: list[Tensor], truth: Tensor) -> None:
        with ExitStack() as undo, self._trying("run through Liger's kernels", undo.close):
            if fuse(self.lm, undo):
                self._require_same(self._alone(texts), truth)
                self.notes.append("Norms and gated layers run through Liger's kernels")
                undo.pop_all()

    def _alone(self, texts: list[Tensor]) -> Tensor:
        return torch.cat([self.lm.base_model(input_ids=t[None], use_cache=False).last_hidden_state[0] for t in texts])

    def _require_same(self, seen: Tensor, truth: Tensor) -> None:
        """In one wording at least: a few tokens blow up bf16's rounding, where another computation differs in all."""
        pairs = zip((seen - truth).float().chunk(3), truth.float().chunk(3), strict=True)
        error = min(float(off.norm() / theirs.norm()) for off, theirs in pairs)
        if not error < (1e-3 if self.dtype == torch.float32 else 1e-1):
            raise ValueError(f"states differ by {error:.1g} of their size")

    @contextmanager
    def _trying(self, what: str, undo: Callable[[], object]) -> Iterator[None]:
        """Whatever a family, a kernel or a machine has against it: undone, and said."""
        try:
            yield
        except Exception as e:
            undo()
            reason = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
            said = f"{type(self.lm).__name__} cannot be {what} ({reason}): slower, with the same results"
            warnings.warn(said, stacklevel=1)

    @contextmanager
    def _looking(self) -> Iterator[Int[Tensor, " L"]]:
        """A few tokens to look at the model with, in evaluation meanwhile."""
        training = self.lm.training
        self.lm.eval()
        try:
            # spread over the vocabulary: the special tokens at its ends, never met in training, blow up bf16's rounding
            yield torch.arange(2, 6, device=self.device) * self.vocabulary // 8
        finally:
            self.lm.train(training)


def _texts(ids: Int[Tensor, " L"]) -> list[Tensor]:
    """Three of different lengths, of which two begin alike, in each of three wordings."""
    return [text for i in (ids, ids + 1, ids + 2) for text in (i, torch.cat([i[:2], i.flip(0)]), i[1:])]
