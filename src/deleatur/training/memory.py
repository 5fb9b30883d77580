"""Peak memory, and batches split when memory runs out: a step of smaller passes gives the same numbers."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from deleatur.data.batches import collate
from deleatur.errors import ConfigError
from deleatur.types import Batch


class MicroBatches:
    """How many pieces a batch goes through in: 1 until the memory runs out, then twice as many each time.

    Losses are sums divided by the counts of the whole step, so pieces change its numbers by rounding alone.
    """

    def __init__(self) -> None:
        self.count = 1

    def of(self, window: Sequence[Batch]) -> list[Batch]:
        """A step's batches as they are to go through."""
        return list(window) if self.count == 1 else [piece for batch in window for piece in cut(batch, self.count)]

    def halve(self, window: Sequence[Batch]) -> None:
        """Halve the pieces. Raises ConfigError where a piece is a single pair of rows already."""
        most = max(max(b.forget, len(b) - b.forget - b.preferred) for b in window)
        if self.count >= most:
            raise ConfigError(
                "out of memory with one pair of rows at a time; try --train.checkpointing, --train.precision bf16, "
                "--lora.rank 16, --lora.bits 4, a smaller --data.max-length, or more GPUs by FSDP2 or ZeRO-3 (docs/scale.md)"
            )
        self.count *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"out of memory: each batch goes through in {self.count} pieces from now on, accumulated; the numbers stay the "
            f"same (set --train.batch and --train.accumulate to avoid this)",
            stacklevel=2,
        )


def cut(batch: Batch, count: int) -> list[Batch]:
    """The batch's rows, in their order, in so many batches or, where rows are fewer, in fewer."""
    forget, preferred = batch.rows[: batch.forget], batch.rows[batch.forget : batch.forget + batch.preferred]
    sides = forget, preferred, batch.rows[batch.forget + batch.preferred :]
    pieces = [[side[len(side) * k // count : len(side) * (k + 1) // count] for side in sides] for k in range(count)]
    return [collate(f, r, preferred=p) for f, p, r in pieces if f or r] or [batch]


def ran_out(e: RuntimeError) -> bool:
    """Was the memory too short, of a GPU or of the machine?"""
    return isinstance(e, torch.OutOfMemoryError) or should_reduce_batch_size(e)


def peak_memory() -> int:
    """Most bytes ever held since the peak was forgotten: of the GPU's memory, or without one of the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak_memory() -> None:
    """Reset the peak, where the system allows it (CUDA, Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def release_memory() -> None:
    """Give back what models before held: patched methods tie them into cycles, and glibc keeps freed memory for itself."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another system has no such function
        ctypes.CDLL("libc.so.6").malloc_trim(0)
