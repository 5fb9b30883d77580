"""What does a run hold? `python benchmarks/memory.py` prints docs/scale.md's table, `--check` computed against measured.

Bytes on one device; P weights of which T are trained, s bytes each (4 fp32, 2 bf16), V × D head, L layers of inner width
F with H query and K key-value heads of width d, n tokens in one forward:

    weights      s·P; in NF4 .516 for a weight of a linear layer (4 bits, and a scale for 64 of them, itself in 8 bits)
    for AdamW    8·T of moments, and 4·T of fp32 master where s = 2
    gradients    4·T once the backward pass is through, when the activations are gone: the larger of the two counts
    activations  n·L·layer, checkpointed n·(L·s·D + layer), and 2·s·n·D around them, where per token
                 layer = 2·(4 + s)·D + 2·s·D (norms, what goes into the projections) + 4·s·F + attention,
                 attention = 4·(H·d + 2·K·d + H·row) + s·H·d on CPU, 2·s·(H + K)·d in a fused kernel
    logits       2·s for min(scored·V, 2²⁶) entries: logits and their gradient; on a GPU 8 more, two copies in fp32
    FSDP2        all but activations and logits over the devices; and whole: head, embedding, two layers, a gradient
    evaluation   s·P, also after NF4: what is saved is what is evaluated (with --evaluation.precision bf16; 4·P in fp32)

A CUDA context (about .5 GB) and the allocator's gaps come on top: a cell fits if it leaves 15 % of
the device, since a small model held .18 to .30 GB more than is computed (docs/scale.md).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from step import SHAPES, Case, ours, rows

from deleatur.data.batches import collate
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import ENTRIES

RANK, TOKENS, ROW, SCORED = 16, 2048, 256, 0.58
NF4 = 0.516


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama's sizes, as in the docstring above."""

    D: int
    F: int
    L: int
    H: int
    K: int
    d: int
    V: int
    tied: bool = False

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Of a layer: queries, keys, values, output, gate, up, down."""
        q, kv = self.H * self.d, self.K * self.d
        return [(self.D, q), (self.D, kv), (self.D, kv), (q, self.D), (self.D, self.F), (self.D, self.F), (self.F, self.D)]

    @property
    def layer(self) -> int:
        return sum(a * b for a, b in self.matrices)

    @property
    def head(self) -> int:
        """Embedding and head, one where they are tied."""
        return self.V * self.D * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        return self.L * (self.layer + 2 * self.D) + self.D + self.head

    def adapters(self, rank: int) -> int:
        return self.L * sum(rank * (a + b) for a, b in self.matrices)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How it is trained."""

    size: int = 2  # bytes of a weight
    rank: int | None = None
    checkpointing: bool = False
    bits: int | None = None


MODELS = {
    "1B": Shape(D=2048, F=8192, L=16, H=32, K=8, d=64, V=128256, tied=True),
    "8B": Shape(D=4096, F=14336, L=32, H=32, K=8, d=128, V=128256),
    "70B": Shape(D=8192, F=28672, L=80, H=64, K=8, d=128, V=128256),
}
WAYS = {
    "all weights": Way(),
    "all weights, checkpointed": Way(checkpointing=True),
    "LoRA": Way(rank=RANK),
    "LoRA, checkpointed": Way(rank=RANK, checkpointing=True),
    "QLoRA, checkpointed": Way(rank=RANK, checkpointing=True, bits=4),
}
MACHINES = {"1 × 24 GB": (1, 24e9), "1 × 80 GB": (1, 80e9), "8 × 80 GB": (8, 80e9)}
SMALL = Shape(D=576, F=1536, L=10, H=9, K=3, d=64, V=49152, tied=True)
SHAPES["small"] = SHAPES["SmolLM2-135M"] | {"num_hidden_layers": SMALL.L}
CHECKED = {
    "fp32": (Case(shape="small"), Way(size=4)),
    "bf16": (Case(shape="small", precision="bf16"), Way()),
    "bf16 checkpointed": (Case(shape="small", precision="bf16", checkpointing=True), Way(checkpointing=True)),
    "LoRA bf16 checkpointed": (
        Case(shape="small", precision="bf16", rank=RANK, checkpointing=True),
        Way(rank=RANK, checkpointing=True),
    ),
}


def training(m: Shape, way: Way, *, tokens: int, scored: int, row: int, devices: int = 1, fused: bool = True) -> float:
    """Most bytes that a device holds in a step."""
    s, more = way.size, 0 if way.rank is None else m.adapters(way.rank)
    trained = more or m.weights
    held = s * (m.weights + more) - (s - NF4 if way.bits else 0) * m.L * m.layer
    held += (8 + (4 if s == 2 else 0)) * trained
    attention = 2 * s * (m.H + m.K) * m.d if fused else 4 * (m.H * m.d + 2 * m.K * m.d + m.H * row) + s * m.H * m.d
    layer = 2 * s * (m.D + m.F) + attention
    active = tokens * (m.L * s * m.D + layer if way.checkpointing else m.L * layer) + 2 * s * tokens * m.D
    active += (2 * s + (8 if fused else 0)) * min(scored * m.V, ENTRIES)
    active += s * max(a * b for a, b in m.matrices) if way.bits else 0  # one matrix at a time is unpacked
    whole = s * (m.head + 3 * m.layer) if devices > 1 else 0
    return held / devices + max(active + whole, 4 * trained / devices + whole)


def evaluating(m: Shape, way: Way, devices: int = 1) -> float:
    """Most bytes of a device that the weights take when the model is evaluated, before or after."""
    return way.size * (m.weights / devices + (m.head + 2 * m.layer if devices > 1 else 0))


def table() -> Iterator[str]:
    yield f"| | {' | '.join(MACHINES)} |"
    yield f"|---|{'---|' * len(MACHINES)}"
    for name, m in MODELS.items():
        for how, way in WAYS.items():
            yield f"| {name}, {how} | {' | '.join(cell(m, way, *machine) for machine in MACHINES.values())} |"


def cell(m: Shape, way: Way, devices: int, room: float) -> str:
    """Gigabytes in training, and in evaluation where that is more; bold where both fit."""
    if way.bits and devices > 1:
        return "–"
    train = training(m, way, tokens=TOKENS, scored=round(SCORED * TOKENS), row=ROW, devices=devices)
    evaluation = evaluating(m, way, devices)
    said = f"{train / 1e9:.0f}" + (f" (evaluation: {evaluation / 1e9:.0f})" if evaluation > train else "")
    return f"**{said}**" if max(train, evaluation) < 0.85 * room else said


def measured(name: str) -> int:
    """Bytes of this process that three steps of the case add at most to what it held before the model was there."""
    torch.set_num_threads(1)
    exact_matmul()
    case, _ = CHECKED[name]
    forget, retain = (rows(case.rows, seed) for seed in (1, 2))
    base = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    done = ours(case, iter([[collate(forget, retain)]] * 3), forget, 3)
    return max(step.memory for step in done) - base


def check() -> Iterator[str]:
    """Computed against measured, each case in a process of its own."""
    both = [row for seed in (1, 2) for row in rows(8, seed)]
    tokens, scored = sum(len(r.ids) for r in both), sum(len(r.ids) - r.start for r in both)
    yield "| | computed | measured | error |"
    yield "|---|---|---|---|"
    for name, (_, way) in CHECKED.items():
        done = subprocess.run([sys.executable, __file__, "--inner", name], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        made = training(SMALL, way, tokens=tokens, scored=scored, row=tokens // 16, fused=False)
        yield f"| {name} | {made / 1e9:.2f} GB | {found / 1e9:.2f} GB | {made / found - 1:+.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="a few steps of a small model on CPU (Linux)")
    parser.add_argument("--inner", choices=CHECKED, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        print(json.dumps(measured(args.inner)))
        return
    for line in check() if args.check else table():
        print(line, flush=True)


if __name__ == "__main__":
    main()
