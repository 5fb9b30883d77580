"""What is tried before step 1, beside a step: `python benchmarks/trial.py MODEL`, a folder or a .gguf file

One thread, gradient difference on 4 + 4 rows as in step.py, all weights; then merging, as with --lora.rank. CPU seconds,
medians; the first trial and the first step are not counted, nor is the import of peft.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from step import LR, rows

from deleatur.data.batches import collate
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.modeling.dry_run import try_merging, try_saving
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Lora, Train
from deleatur.training.loop import Method, fit


def seconds(trial: Callable[[], None], repeats: int) -> list[float]:
    """CPU seconds of each repeat but the first."""
    took = []
    for _ in range(repeats + 1):
        began = time.process_time()
        trial()
        took.append(time.process_time() - began)
    return took[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    exact_matmul()
    lm, tokenizer = load(args.model)
    saving = seconds(lambda: try_saving(lm, tokenizer, args.model), args.repeats)
    merging = seconds(lambda: try_merging(lm, Lora(rank=16), args.model), args.repeats)
    size = lm.get_input_embeddings().num_embeddings  # the rows' random ids are of SmolLM2's vocabulary
    sides = ([replace(row, ids=tuple(i % size for i in row.ids)) for row in rows(4, seed)] for seed in (1, 2))
    batch, steps = collate(*sides), []
    method = Method(loss=GradientDifference(), importance=Uniform(), settings=Train(lr=LR))
    windows = ([batch] for _ in range(args.repeats + 1))
    fit(TokenModel(lm).prepare(), windows, method, steps=args.repeats + 1, on_step=steps.append)
    step = statistics.median(s.cpu_seconds for s in steps[1:])
    print(f"a step of 4 + 4 rows        {step:6.2f} CPU s")
    for name, took in {"saving and reading, tried": saving, "merging, tried": merging}.items():
        print(f"{name:27} {statistics.median(took):6.2f} CPU s, {statistics.median(took) / step:.2f} of a step")


if __name__ == "__main__":
    main()
