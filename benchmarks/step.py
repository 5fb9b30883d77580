"""How fast is deleatur's step, and what does it hold? `python benchmarks/step.py`, or `--only 'ATWU bf16' 'NPO bf16'`

One thread; each case in a process of its own, in which the naive step of gradient difference in fp32 and ours take turns:
CPU seconds, median of the paired ratios; the scorer has its turn in every step. Peak memory comes from processes with one of
the two alone. Weights are random: what a step costs does not depend on them. Rows are as long as TOFU's: 8 + 8 of about 84
tokens, 58 % of them scored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from naive import NaiveStep
from transformers import LlamaConfig, LlamaForCausalLM

from deleatur.config.method import requirements_of
from deleatur.data.batches import collate
from deleatur.importance import Learned, Uniform
from deleatur.importance.atwu import LearnedImportance
from deleatur.losses import NPO, Erase, GradientDifference
from deleatur.modeling.loading import DTYPES, add_adapters, checkpoint_activations
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.reference import make_reference
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Step
from deleatur.protocols import TrainingContext
from deleatur.settings import Lora, Train
from deleatur.training.loop import Method, fit
from deleatur.training.memory import peak_memory
from deleatur.types import Batch, Encoded, Example

SHAPES = {
    "SmolLM2-135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rope_theta": 100000.0,
    },
    "262k × 640": {
        "vocab_size": 262144,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
    },
}
LR = 1e-5


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured."""

    method: str = "ATWU"  # or GradDiff, NPO, Erase
    precision: str = "fp32"
    rank: int | None = None  # of adapters; none trains all weights
    checkpointing: bool = False
    shape: str = "SmolLM2-135M"
    naive: str = "fp32"  # what it is compared with, as peers write it
    reference: bool = False  # compared with NPO and not with gradient difference
    rows: int = 8  # of each side
    vocabulary: int = 1  # times as large
    scored: float = 0.58  # share of the tokens


CASES = {
    "GradDiff fp32": Case(method="GradDiff"),
    "GradDiff bf16": Case(method="GradDiff", precision="bf16"),
    "ATWU fp32": Case(),
    "ATWU bf16": Case(precision="bf16"),
    "ATWU fp32 checkpointed": Case(checkpointing=True),
    "ATWU bf16 checkpointed": Case(precision="bf16", checkpointing=True),
    "ATWU LoRA fp32": Case(rank=16),
    "ATWU LoRA bf16": Case(precision="bf16", rank=16),
    "ATWU LoRA bf16 checkpointed": Case(precision="bf16", rank=16, checkpointing=True),
    "NPO fp32 (naive NPO fp32 = 1)": Case(method="NPO", reference=True),
    "NPO bf16 (naive NPO bf16 = 1)": Case(method="NPO", precision="bf16", naive="bf16", reference=True),
    "ATWU bf16, 262k × 640": Case(precision="bf16", shape="262k × 640"),
}
BESIDE = {  # gradient difference by our own step = 1
    "Erase bf16": Case(method="Erase", precision="bf16"),
    "Erase fp32": Case(method="Erase"),
    "Erase LoRA bf16": Case(method="Erase", precision="bf16", rank=16),
    "Erase bf16, 262k × 640": Case(method="Erase", precision="bf16", shape="262k × 640"),
}
GROWTH = {f"tokens ×{n}": Case(precision="bf16", rows=8 * n) for n in (1, 2, 4)}
GROWTH |= {f"vocabulary ×{n}": Case(precision="bf16", vocabulary=n) for n in (1, 4)}
GROWTH |= {f"answers {share:.0%} of the tokens": Case(precision="bf16", scored=share) for share in (0.2, 0.6, 1.0)}


def rows(count: int, seed: int, *, mean: float = 84, spread: float = 12, scored: float = 0.58) -> list[Encoded]:
    """Rows of random tokens, their lengths about TOFU's (50 to 104 tokens); the first token is never scored."""
    rng, made = random.Random(seed), []
    for i in range(count):
        length = min(104, max(50, round(rng.gauss(mean, spread))))
        start = max(1, round(length * (1 - scored)))
        ids = tuple(rng.randrange(SHAPES["SmolLM2-135M"]["vocab_size"]) for _ in range(length))
        example = Example(id=f"{seed}-{i}", prompt=(("user", "?"),), answer="x" * (length - start))
        made.append(Encoded(example=example, ids=ids, start=start, offsets=tuple((k, k + 1) for k in range(length - start))))
    return made


def model(dtype: torch.dtype = torch.float32, *, shape: str = "SmolLM2-135M", vocabulary: int = 1) -> LlamaForCausalLM:
    """A shape with random weights."""
    torch.manual_seed(0)
    sizes = dict(SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=True)
    return LlamaForCausalLM(LlamaConfig(**sizes | {"vocab_size": sizes["vocab_size"] * vocabulary})).to(dtype)


def ours(case: Case, windows: Iterator[list[Batch]], met: list[Encoded], steps: int) -> list[Step]:
    """The case's steps, over the windows."""
    lm = model(DTYPES[case.precision], shape=case.shape, vocabulary=case.vocabulary)
    if case.rank is not None:
        add_adapters(lm, Lora(rank=case.rank))
    if case.checkpointing:
        checkpoint_activations(lm)
    policy, done = TokenModel(lm).prepare(), []
    loss, settings = GradientDifference(), Train(lr=LR, precision=case.precision)
    if case.method == "ATWU":
        loss = GradientDifference(saturation=5.0)
    elif case.method == "NPO":
        loss = NPO(beta=0.1)
    elif case.method == "Erase":  # with all that its recipe holds: unselected tokens, and retain rows by KL
        loss, settings = Erase(level=7.0), replace(settings, keep=1.0, retain="kl")
    reference = make_reference(StartPass(policy, batch=8), met, requirements_of(loss, Uniform(), settings))
    importance = Uniform()
    if case.method == "ATWU":
        context = {"train": settings, "width": policy.width, "steps": steps}
        importance = LearnedImportance(Learned(every=1), TrainingContext(loss=loss, reference=reference, **context))
    fit(
        policy,
        windows,
        Method(loss=loss, importance=importance, settings=settings, reference=reference),
        steps=steps,
        on_step=done.append,
    )
    return done


def measure(case: Case, repeats: int, *, alone: bool) -> dict[str, object]:
    """Medians over repeats, the first of which is not counted; `alone` without the naive step, for the memory."""
    torch.set_num_threads(1)
    forget, retain = (rows(case.rows, seed, scored=case.scored) for seed in (1, 2))
    naive = None if alone else naive_step(case)
    seconds, gemm = [], []

    def windows() -> Iterator[list[Batch]]:
        for _ in range(repeats + 1):
            exact_matmul()
            gemm.append(gemm_speed(DTYPES[case.precision]))
            if naive is not None:
                torch.set_float32_matmul_precision("highest")
                began = time.process_time()
                naive(forget, retain)
                seconds.append(time.process_time() - began)
                exact_matmul()
            yield [collate(forget, retain)]

    steps = ours(case, windows(), forget, repeats + 1)[1:]
    cpu = statistics.median(s.cpu_seconds for s in steps)
    tokens = sum(len(r.ids) for r in (*forget, *retain))
    said = {
        "cpu_seconds": cpu,
        "tokens_per_second": tokens / cpu,
        "scorer_share": statistics.fmean(s.scorer_seconds / s.seconds for s in steps),
        "gemm_peak": statistics.median(gemm),  # FLOP/s
        "of_peak": flops(case, forget + retain) / cpu / statistics.median(gemm),
        "peak_bytes": peak_memory(),
    }
    if seconds:
        ratios = [n / s.cpu_seconds for n, s in zip(seconds[1:], steps, strict=True)]
        said |= {"naive_cpu_seconds": statistics.median(seconds[1:]), "ratio": statistics.median(ratios), "ratios": ratios}
    return said


def beside_gradient_difference(case: Case, repeats: int) -> dict[str, object]:
    """CPU seconds of the case's step over those of gradient difference, in turns of `repeats` steps and one to warm up."""
    torch.set_num_threads(1)
    exact_matmul()
    sides, ratios = [rows(case.rows, seed, scored=case.scored) for seed in (1, 2)], []

    def seconds(case: Case) -> float:
        again = (([collate(*sides)]) for _ in range(repeats + 1))
        return statistics.median(s.cpu_seconds for s in ours(case, again, [*sides[0], *sides[1]], repeats + 1)[1:])

    for _ in range(3):
        theirs, own = seconds(replace(case, method="GradDiff")), seconds(case)
        ratios.append(own / theirs)
    return {"cpu_seconds": own, "beside_gradient_difference": statistics.median(ratios), "ratios": ratios}


def peak_of_naive(case: Case) -> dict[str, object]:
    """Most memory of two naive steps."""
    torch.set_num_threads(1)
    naive, sides = naive_step(case), [rows(case.rows, seed, scored=case.scored) for seed in (1, 2)]
    for _ in range(2):
        naive(*sides)
    return {"peak_bytes": peak_memory()}


def naive_step(case: Case) -> NaiveStep:
    """The step that the case is compared with."""
    policy, *start = (model(DTYPES[case.naive], shape=case.shape) for _ in range(2 if case.reference else 1))
    return NaiveStep(policy, lr=LR, reference=start[0] if start else None)


def flops(case: Case, batch: list[Encoded]) -> float:
    """Of a step's matrix products: 2 a weight and token forwards, 2 for the states' gradients, 2 for the weights' own."""
    config = model_config(case)
    heads = config.num_attention_heads * config.head_dim + config.num_key_value_heads * config.head_dim
    layer = 2 * heads * config.hidden_size + 3 * config.hidden_size * config.intermediate_size
    tokens, scored = sum(len(r.ids) for r in batch), sum(len(r.ids) - r.start for r in batch)
    attention = sum(len(r.ids) ** 2 for r in batch) * config.num_attention_heads * config.head_dim * 2
    products = tokens * layer * config.num_hidden_layers + scored * config.hidden_size * config.vocab_size
    passes = (2 if case.rank else 3) + (1 if case.checkpointing else 0)
    return 2 * products * passes + 2 * 3 * attention * config.num_hidden_layers


def model_config(case: Case) -> LlamaConfig:
    sizes = SHAPES[case.shape]
    return LlamaConfig(**sizes | {"vocab_size": sizes["vocab_size"] * case.vocabulary})


def gemm_speed(dtype: torch.dtype, size: int = 1536) -> float:
    """FLOP/s of one large matrix product."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    began = time.process_time()
    a @ b
    return 2 * size**3 / (time.process_time() - began)


def elsewhere(name: str, repeats: int, who: str) -> dict[str, object]:
    """`measure` in a fresh process, or the naive step's peak alone."""
    asked = [sys.executable, __file__, "--inner", name, "--repeats", str(repeats), "--who", who]
    done = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    everything = CASES | GROWTH | BESIDE
    names = "; ".join(everything).replace("%", "%%")
    parser.add_argument("--only", nargs="+", metavar="CASE", default=list(everything), help=names)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--out", default="runs/bench/step.json")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    parser.add_argument("--who", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        case = everything[args.inner]
        if args.inner in BESIDE:
            said = beside_gradient_difference(case, args.repeats)
        else:
            said = peak_of_naive(case) if args.who == "naive" else measure(case, args.repeats, alone=args.who == "ours")
        print(json.dumps(said))
        return
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    plain: dict[tuple, object] = {}  # peaks of naive steps
    for name in args.only:
        case = everything[name]
        found[name] = asdict(case) | elsewhere(name, args.repeats, "ours" if name in GROWTH else "both")
        if name in CASES:
            found[name] |= {"peak_bytes": elsewhere(name, 1, "ours")["peak_bytes"]}
            kind = (case.shape, case.naive, case.reference)
            plain[kind] = plain.get(kind) or elsewhere(name, 1, "naive")["peak_bytes"]
            found[name] |= {"naive_peak_bytes": plain[kind]}
        print(line(name, found[name]), flush=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")  # an interruption loses one case


def line(name: str, of: dict) -> str:
    """One case for the terminal."""
    if name in BESIDE:
        spread = f"{of['beside_gradient_difference']:.2f} × ({min(of['ratios']):.2f}–{max(of['ratios']):.2f})"
        return f"{name:32} {of['cpu_seconds']:6.2f} CPU s a step, gradient difference {spread}"
    ratio = f"{of['ratio']:5.2f}× ({min(of['ratios']):.2f}–{max(of['ratios']):.2f})" if "ratio" in of else ""
    return (
        f"{name:32} {of['cpu_seconds']:6.2f} CPU s a step, {of['tokens_per_second']:5.0f} tokens/s, "
        f"{of['peak_bytes'] / 1e9:5.2f} GB, {of['of_peak']:4.0%} of {of['gemm_peak'] / 1e9:.0f} GFLOP/s, "
        f"scorer {of['scorer_share']:.1%}  {ratio}"
    )


if __name__ == "__main__":
    main()
