"""How much faster is deleatur's step than the naive one? `python benchmarks/step.py --precision bf16`

One process, one thread; a naive step and one of ours in turn, CPU seconds, median of the paired ratios. Weights are random:
what a step costs does not depend on them. Rows are as long as TOFU's: 8 + 8 of about 84 tokens, 49 of them scored.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Iterator

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from accelerate import Accelerator
from naive import NaiveStep
from transformers import LlamaConfig, LlamaForCausalLM

from deleatur.atwu import LearnedImportance
from deleatur.data.batches import collate
from deleatur.forward import TokenModel
from deleatur.importance import Learned
from deleatur.losses import GradientDifference
from deleatur.model import DTYPES, add_adapters, checkpoint_activations, exact_matmul
from deleatur.settings import Lora, Train
from deleatur.train import Step, fit
from deleatur.types import Batch, Encoded, Example, Reference

SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
LR = 1e-5


def rows(count: int, seed: int, *, mean: float = 84, spread: float = 12, scored: float = 0.58) -> list[Encoded]:
    """Rows of random tokens, their lengths about TOFU's (50 to 104 tokens)."""
    rng, made = random.Random(seed), []
    for i in range(count):
        length = min(104, max(50, round(rng.gauss(mean, spread))))
        start = round(length * (1 - scored))
        ids = tuple(rng.randrange(SMOLLM2_135M["vocab_size"]) for _ in range(length))
        example = Example(id=f"{seed}-{i}", prompt=(("user", "?"),), answer="x" * (length - start))
        made.append(Encoded(example=example, ids=ids, start=start, offsets=tuple((k, k + 1) for k in range(length - start))))
    return made


def model(dtype: torch.dtype = torch.float32, rank: int | None = None, checkpointing: bool = False) -> LlamaForCausalLM:
    """SmolLM2-135M's shapes with random weights."""
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).to(dtype)
    if rank is not None:
        add_adapters(lm, Lora(rank=rank))
    if checkpointing:
        checkpoint_activations(lm)
    return lm


def ours(lm: LlamaForCausalLM, windows: Iterator[list[Batch]], settings: Train, steps: int, padded: bool) -> list[Step]:
    """ATWU's steps, over the windows."""
    model, done = TokenModel(lm), []
    model.packs = model.packs and not padded
    loss = GradientDifference(saturation=5.0)
    importance = LearnedImportance(Learned(), width=model.width, turns=steps, loss=loss, reference=Reference())
    accelerator = Accelerator(cpu=True)
    fit(
        model,
        windows,
        steps=steps,
        loss=loss,
        importance=importance,
        settings=settings,
        reference=Reference(),
        accelerator=accelerator,
        on_step=done.append,
    )
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--rank", type=int, help="of adapters; none trains all weights")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--padded", action="store_true", help="our step without packing")
    parser.add_argument("--alone", action="store_true", help="without the naive step in between")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    forget, retain = rows(8, 1), rows(8, 2)
    naive = None if args.alone else NaiveStep(model(), lr=LR)
    seconds: list[float] = []

    def windows() -> Iterator[list[Batch]]:
        for _ in range(args.repeats + 1):  # the first of each is not counted
            if naive is not None:
                torch.set_float32_matmul_precision("highest")
                began = time.process_time()
                naive(forget, retain)
                seconds.append(time.process_time() - began)
            exact_matmul()
            yield [collate(forget, retain)]

    lm = model(DTYPES[args.precision], args.rank, args.checkpointing)
    settings = Train(lr=LR, precision=args.precision, batch=8)
    steps = ours(lm, windows(), settings, args.repeats + 1, args.padded)[1:]
    mine = statistics.median(s.cpu_seconds for s in steps)
    print(f"ours  {mine:6.2f} CPU s a step, {sum(len(r.ids) for r in forget + retain) / mine:.0f} tokens/s", args)
    if naive is not None:
        ratios = [n / s.cpu_seconds for n, s in zip(seconds[1:], steps, strict=True)]
        print(f"naive {statistics.median(seconds[1:]):6.2f} CPU s a step; {statistics.median(ratios):.2f}× (", end="")
        print(", ".join(f"{r:.2f}" for r in ratios), end=")\n")


if __name__ == "__main__":
    main()
