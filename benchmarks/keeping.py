"""What checkpoints, guards and the run folder cost, beside a step: `python benchmarks/keeping.py`

One thread, random weights of SmolLM2-135M's shape, 8 + 8 rows as in step.py, gradient difference. Every step is kept
as a checkpoint, every other one is watched by the guards. Medians; wall seconds have the disk in them, read from its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from step import LR, model, rows
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deleatur.data.batches import collate
from deleatur.data.encode import make_encoder
from deleatur.evaluation.predictions import likelihood_pass, make_record
from deleatur.importance import Uniform
from deleatur.losses import GradientDifference
from deleatur.modeling.loading import DTYPES, save
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.run_folder.writer import write_records
from deleatur.settings import Data, Guard, Keep, Precision, Train
from deleatur.training.checkpoint import Checkpoints
from deleatur.training.loop import Method, fit
from deleatur.training.monitor import EVERYDAY, TrainingMonitor

WARM = 2  # steps that are not counted


def took(run: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the everyday sentences, about as many as SmolLM2's own makes of them."""
    words = sorted({word for text in EVERYDAY for word in text.split()})
    whole = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["</s>", *words])}, unk_token="</s>"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>")


def measure(precision: Precision, repeats: int, home: Path) -> tuple[dict[str, tuple[float, float]], dict[str, int]]:
    """Medians of what each thing took, and the bytes it left."""
    exact_matmul()
    policy, words, every = (
        TokenModel(model(DTYPES[precision])).prepare(),
        tokenizer(),
        dict[str, list[tuple[float, float]]](),
    )
    settings, sets = Train(lr=LR, precision=precision), {"forget": rows(8, 1), "retain": rows(8, 2)}
    encoder, steps, monitors = make_encoder(words, Data()), list[Step](), list[TrainingMonitor]()

    def timed(name: str, run: Callable[[], Any]) -> None:
        every.setdefault(name, []).append(took(run))

    def append(step: Step) -> None:
        with (home / "steps.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(asdict(step)) + "\n")

    def heard(step: Step) -> None:
        steps.append(step)
        watched = step.step % 2 == 0
        look = took(lambda: monitors[0].look(steps, kept=False)) if watched else (0.0, 0.0)
        name = "a step, watched" if watched else "a step"
        every.setdefault(name, []).append((step.cpu_seconds + look[0], step.seconds + look[1]))
        every.setdefault("guards, a look", []).extend([look] * watched)
        timed("a line of steps.jsonl", lambda: append(step))
        timed("guards, everyday sentences", lambda: monitors[0].nll("everyday"))

    timed("guards, the start", lambda: monitors.append(TrainingMonitor(Guard(), settings, policy, sets, encoder, batch=32)))
    kept = Checkpoints(home / "checkpoints", every=1, keep=1)
    keep, count = kept.save, repeats + WARM
    kept.save = lambda step, state: timed("checkpoint, saved", lambda: keep(step, state))
    method = Method(loss=GradientDifference(), importance=Uniform(), settings=settings)
    batches = ([collate(*sets.values())] for _ in range(count))
    fit(policy, batches, method, steps=count, on_step=heard, checkpoints=kept)
    timed("checkpoint, checked and loaded", lambda: kept.load(Checkpoints(kept.folder, every=1, keep=1).newest()))
    said = likelihood_pass(policy, sets["forget"], 8)
    records = [make_record(row, s) for row, s in zip(sets["forget"], said, strict=True)] * 25
    timed("records of 200 rows", lambda: write_records(home / "records" / "before.jsonl", {"forget": records}))
    timed("the model at the end", lambda: save(policy.lm, words, home / "model"))
    left = {p.name: sum(f.stat().st_size for f in (p, *p.rglob("*")) if f.is_file()) for p in home.iterdir()}
    cut = {name: values[WARM // 2 if name.startswith("a step") else 0 :] for name, values in every.items()}
    return {name: (statistics.median(c for c, _ in v), statistics.median(w for _, w in v)) for name, v in cut.items()}, left


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8, help="steps that are counted")
    repeats, keep = parser.parse_args().repeats, Keep().every or 1
    torch.set_num_threads(1)
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as home:
            found, left = measure(precision, repeats, Path(home))
        cpu = found["a step"][0]
        for name, (own, wall) in found.items():
            print(f"{precision} {name:31} {own:9.5f} CPU s, {own / cpu:8.2%} of a step's; {wall:9.5f} s by the clock")
        look, probe, saved = (found[n][0] for n in ("guards, a look", "guards, everyday sentences", "checkpoint, saved"))
        each = f"guards {(look + probe / keep) / cpu:.2%}, a checkpoint every {keep} steps {saved / keep / cpu:.2%}"
        print(f"{precision} added to the CPU time of a step: {each}")
        print(f"{precision} bytes: {', '.join(f'{name} {size:,}' for name, size in sorted(left.items()))}", flush=True)


if __name__ == "__main__":
    main()
