"""Runs a model's decoder: over padded rows, or rows end to end where that was found to give the same states."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_torch_flex_attn_available

from deleatur.errors import ModelError
from deleatur.modeling.attention_interface import OWN, PREFIX, CachedRows, packed, set_packed_attention
from deleatur.modeling.frozen_layers import FrozenLayers
from deleatur.modeling.low_memory_layers import patch_low_memory_layers
from deleatur.modeling.packed_attention import KeyValueCache, PrefixTree, share
from deleatur.modeling.patches import fuse, restore_forwards, set_attention


class OtherStates(Exception):
    """A faster form does not give the states that the model has."""


class Decoder:
    """The decoder of one language model. Nothing of the model is changed before `prepare`, and `undo` takes it back.

    `packs`: on the processor, rows go end to end through our attention. `positions`: the name of an attention, on a GPU,
    that keeps rows apart by their positions. `notes`: sentences on what is done otherwise than the model came.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm = lm
        self.packs, self.positions = False, ""
        self.notes: list[str] = []
        self._frozen: FrozenLayers | None = None
        self._gpu_kernels = ExitStack()
        self._gpu_kernels_enabled = False

    @torch.no_grad()
    def prepare(self) -> None:
        """Replace layers by forms that save less, and pack rows where texts keep the states that each has alone."""
        patch_low_memory_layers(self.lm)
        with self.probing() as probe:
            self.packs = self._can_pack(probe)

    def undo(self) -> None:
        """Restore the language model's own forward and attention."""
        set_packed_attention(self.lm, False)
        restore_forwards(self.lm)
        self._gpu_kernels.close()
        self.packs, self.positions, self._gpu_kernels_enabled = False, "", False
        self.notes.clear()

    def run(
        self, rows: Sequence[Sequence[int]], device: torch.device, **extra: bool
    ) -> tuple[Any, list[Int[Tensor, " L"]] | None]:
        """The states of rows end to end, and where each token of each row lies; None, None where that is not possible."""
        if self.positions and self.lm.config._attn_implementation == self.positions:
            ends = zip(rows, accumulate(map(len, rows)), strict=True)
            return self._run_by_positions(rows, **extra), [torch.arange(end - len(row), end) for row, end in ends]
        if self.packs and device.type == "cpu":
            tree = share(rows)
            if self._frozen is not None and not any(extra.values()):
                return self._frozen.run(rows, tree), list(tree.places)
            return self.run_packed(tree, **extra), list(tree.places)
        return None, None

    @torch.no_grad()
    def enable_gpu_kernels(self) -> None:
        """Use the GPU's kernels, once the weights are there. One that changes the states is left out, with a warning."""
        if self._device.type != "cuda" or self._gpu_kernels_enabled:
            return
        self._gpu_kernels_enabled = True
        set_packed_attention(self.lm, False)
        self.packs = False
        with self.probing() as probe:
            truth = self._alone(texts := probe_texts(probe))
            self._fuse(texts, truth)
            self._pack_by_positions(by_positions(self.lm), texts, truth)

    @contextmanager
    def frozen_once(self) -> Iterator[None]:
        """Within, layers below the first that is trained run once for each row, where that gives the states that it has."""
        self._frozen = self._frozen_layers()
        try:
            yield
        finally:
            self._frozen = None

    def read(self, rows: Sequence[Sequence[int]]) -> None:
        """Within `frozen_once`, run those layers for rows as if they were met now."""
        if self._frozen is not None:
            self._frozen.read(rows)

    def _frozen_layers(self) -> FrozenLayers | None:
        layers = getattr(self.network, "layers", None)
        again = any(getattr(module, "gradient_checkpointing", False) for module in self.network.modules())
        if not self.packs or not isinstance(layers, nn.ModuleList) or again:
            return None
        found = FrozenLayers([*layers], self.run_packed)
        with self.probing() as probe, self._fallback_on_error("run with its lower layers' states kept", lambda: None):
            if not found.depth or found.before([probe.tolist()])[0].requires_grad:  # the embedding is trained
                return None
            with torch.no_grad():
                tree = share(texts := [t.tolist() for t in probe_texts(probe)])
                self._check_same(found.run(texts, tree).last_hidden_state[0], self.run_packed(tree).last_hidden_state[0])
            return found
        return None

    @contextmanager
    def original_attention(self) -> Iterator[None]:
        """Over padded rows meanwhile: with a cache, or in another type than the weights', the other attention may fail."""
        now = self.lm.config._attn_implementation
        if self.positions:
            set_attention(self.lm, "sdpa" if self.lm._supports_sdpa else "eager")
        try:
            yield
        finally:
            set_attention(self.lm, now)

    def _run_by_positions(self, rows: Sequence[Sequence[int]], **extra: bool) -> Any:
        """What the decoder makes of rows that lie end to end, where the attention takes position 0 for another row."""
        ids = torch.tensor([token for row in rows for token in row], device=self._device)
        at = torch.cat([torch.arange(len(row), device=self._device) for row in rows])
        return self.network(input_ids=ids[None], position_ids=at[None], use_cache=False, **extra)

    def run_packed(self, tree: PrefixTree, **extra: bool) -> Any:
        """What the decoder makes of a tree's tokens."""
        with packed(tree):
            return self._run_row(tree.ids, tree.at, **extra)

    def run_next(self, ids: Int[Tensor, " B"], cached: CachedRows) -> Any:
        """What it makes of one more token for each sequence."""
        with packed(cached):
            return self._run_row(ids, cached.at)

    def _run_row(self, ids: Int[Tensor, " T"], at: Int[Tensor, " T"], **extra: bool) -> Any:
        seen = torch.ones_like(ids)[None]  # a mask of its own keeps transformers from guessing sequences from positions
        return self.network(input_ids=ids[None], attention_mask=seen, position_ids=at[None], use_cache=False, **extra)

    @torch.no_grad()
    def _can_pack(self, ids: Int[Tensor, " L"]) -> bool:
        """Has a text between others, and grown by a token, the states that it has alone? Else all is as before."""
        if self._device.type != "cpu":
            return False
        if getattr(self.lm, "_is_stateful", False):  # rows end to end would go on from one another's state
            self._warn("run without padding", "it is recurrent")
            return False
        if not set_packed_attention(self.lm):
            return False
        truth = self._alone(texts := probe_texts(ids))
        with self._fallback_on_error("run without padding", lambda: set_packed_attention(self.lm, False)):
            cache = KeyValueCache()
            tree = share([t[:-1].tolist() for t in texts], cache)
            first = self.run_packed(tree).last_hidden_state[0]
            cached = CachedRows(cache=cache, at=torch.tensor([len(t) - 1 for t in texts]))
            last = self.run_next(torch.stack([t[-1] for t in texts]), cached).last_hidden_state[0]
            seen = torch.cat([x for places, end in zip(tree.places, last, strict=True) for x in (first[places], end[None])])
            self._check_same(seen, truth)
            return True
        return False

    def _pack_by_positions(self, names: Sequence[str], texts: list[Tensor], truth: Tensor) -> None:
        """Take the first of these attentions through which texts end to end have the states that each has alone."""
        current = self.lm.config._attn_implementation
        for name in names:
            with self._fallback_on_error(f"run without padding through {name}", lambda: set_attention(self.lm, current)):
                set_attention(self.lm, name)
                self._check_same(self._run_by_positions([t.tolist() for t in texts]).last_hidden_state[0], truth)
                self.positions = name
                self.notes.append(f"Rows go end to end through {name}")
                return

    def _fuse(self, texts: list[Tensor], truth: Tensor) -> None:
        with ExitStack() as undo, self._fallback_on_error("run through Liger's kernels", undo.close):
            if fuse(self.lm, undo):
                self._check_same(self._alone(texts), truth)
                self.notes.append("Norms and gated layers run through Liger's kernels")
                self._gpu_kernels = undo.pop_all()

    def _alone(self, texts: list[Tensor]) -> Tensor:
        return torch.cat([self.network(input_ids=t[None], use_cache=False).last_hidden_state[0] for t in texts])

    def _check_same(self, seen: Tensor, truth: Tensor) -> None:
        """In one wording at least: a few tokens blow up bf16's rounding, where another computation differs in all."""
        pairs = zip((seen - truth).float().chunk(3), truth.float().chunk(3), strict=True)
        error = min(float(off.norm() / expected.norm()) for off, expected in pairs)
        if not error < (1e-3 if self._dtype == torch.float32 else 1e-1):
            raise OtherStates(f"states differ by {error:.1g} of their size")

    @contextmanager
    def _fallback_on_error(self, what: str, undo: Callable[[], object]) -> Iterator[None]:
        """On any error: undo, and warn."""
        try:
            yield
        except Exception as e:
            undo()
            reason = str(e) if isinstance(e, OtherStates) else f"{type(e).__name__}: {e}"
            self._warn(what, reason)

    def _warn(self, what: str, reason: str) -> None:
        message = f"{type(self.lm).__name__} cannot be {what} ({reason}): slower, with the same results"
        warnings.warn(message, stacklevel=1)

    @contextmanager
    def probing(self) -> Iterator[Int[Tensor, " L"]]:
        """A few tokens to look at the model with, in evaluation meanwhile."""
        training = [module for module in self.lm.modules() if module.training]
        self.lm.eval()
        try:
            # spread over the vocabulary: the special tokens at its ends, never met in training, blow up bf16's rounding
            yield torch.arange(2, 6, device=self._device) * self._vocabulary // 8
        finally:
            for module in training:
                module.training = True

    @property
    def network(self) -> nn.Module:
        """What makes the states; a few families have it under another name than they say."""
        if self.lm.base_model is not self.lm:
            return self.lm.base_model
        inner = next((m for m in self.lm.children() if isinstance(m, PreTrainedModel)), None)
        if inner is None:
            raise ModelError(
                f"{type(self.lm).__name__} has no decoder apart from its head; a causal language model is needed"
            )
        return inner

    @property
    def _device(self) -> torch.device:
        return self._embedding.weight.device

    @property
    def _dtype(self) -> torch.dtype:
        return self._embedding.weight.dtype

    @property
    def _vocabulary(self) -> int:
        return self._embedding.weight.shape[0]

    @property
    def _embedding(self) -> Any:
        head = self.lm.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self.lm).__name__} has no language-model head; a causal language model is needed")
        if not isinstance(getattr(head, "weight", None), Tensor):
            seen = f"the language-model head is a {type(head).__name__} without a weight of its own"
            raise ModelError(f"{seen}; give the model with its own head, a linear layer")
        return head


def probe_texts(ids: Int[Tensor, " L"]) -> list[Tensor]:
    """Three of different lengths, of which two begin alike, in each of three wordings."""
    return [text for i in (ids, ids + 1, ids + 2) for text in (i, torch.cat([i[:2], i.flip(0)]), i[1:])]


def by_positions(lm: PreTrainedModel) -> list[str]:
    """Attentions of that kind that this model and machine have, best first; what somebody chose stays, and may be one."""
    name = str(lm.config._attn_implementation).removeprefix(PREFIX)
    if name not in OWN:
        return [name]
    flash = lm._supports_flash_attn and lm.dtype == torch.bfloat16 and is_flash_attn_2_available()
    flex = lm._supports_flex_attn and is_torch_flex_attn_available()
    return ["flash_attention_2"] * flash + ["flex_attention"] * flex
