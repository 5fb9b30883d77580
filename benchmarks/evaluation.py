"""One likelihood pass for all metrics, and generation, against the plain way: `python benchmarks/evaluation.py`

CPU seconds of one thread, ours and the plain way in turn. The plain way is the peers': for each metric a padded forward with
logits at all positions, answers by `generate` in batches of 8, fp32 products as torch makes them if nobody says otherwise.
Without `--model` weights are random, of SmolLM2-135M's shapes, and so are the rows, as long as TOFU's with as many tokens in
common as SmolLM2's chat template has; with it the rows are a suite's (from $DELEATUR_DATA or the hub).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}

import torch
from step import SHAPES, model, rows
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel

from deleatur.data.encode import make_encoder
from deleatur.data.spacing import evenly_spaced
from deleatur.data.suites import read_suite
from deleatur.evaluation.predictions import ends, likelihood_pass, other_answers
from deleatur.modeling.generation import greedy
from deleatur.modeling.loading import DTYPES, load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data
from deleatur.types import Encoded

METRICS = 7  # probability, extraction strength, exact memorisation, loss, zlib, Min-K%, Min-K%++
ANSWERS = 6  # of the truth ratio: one in other words, five wrong ones
TEMPLATE = 27  # tokens before the question
BATCH, STOCK = 32, 8  # rows at a time: of a likelihood pass, of plain generation


@torch.no_grad()
def plain_pass(lm: PreTrainedModel, texts: Sequence[Encoded]) -> list[list[float]]:
    """NLL of every scored token, as a peer's metric makes it for itself."""
    out = []
    for first in range(0, len(texts), BATCH):
        part = texts[first : first + BATCH]
        longest = max(len(r.ids) for r in part)
        ids, mask = torch.zeros(len(part), longest, dtype=torch.long), torch.zeros(len(part), longest, dtype=torch.long)
        for b, r in enumerate(part):
            ids[b, : len(r.ids)], mask[b, : len(r.ids)] = torch.tensor(r.ids), 1
        logits = lm(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        nll = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        out += [nll[b, r.start - 1 : len(r.ids) - 1].tolist() for b, r in enumerate(part)]
    return out


@torch.no_grad()
def plain_answers(
    lm: PreTrainedModel, prompts: Sequence[tuple[int, ...]], stop: frozenset[int], new: int, size: int = STOCK
) -> list[list[int]]:
    """Greedy answers by transformers' `generate`, in the order in which the rows come."""
    out = []
    for first in range(0, len(prompts), size):
        part = prompts[first : first + size]
        longest = max(map(len, part))
        ids = torch.tensor([[min(stop)] * (longest - len(p)) + list(p) for p in part])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part])
        config = GenerationConfig(do_sample=False, max_new_tokens=new, eos_token_id=sorted(stop), pad_token_id=min(stop))
        said = lm.generate(ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()  # pyright: ignore
        out += [s[: next((i for i, t in enumerate(s) if t in stop), new) + 1] for s in said]
    return out


def seconds(run: Callable[[], Any], products: str = "highest") -> tuple[Any, float]:
    """What it gives, and the CPU seconds that it took."""
    torch.set_float32_matmul_precision(products)
    began = time.process_time()
    made = run()
    return made, time.process_time() - began


def compare(
    lm: PreTrainedModel, asked: Sequence[Encoded], others: Sequence[Encoded], stop: frozenset[int], *, new: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Ratios of plain to ours, of each kind of question. A metric's plain passes are alike: one is timed, and counted
    as often as there are metrics."""
    ours, prompts = TokenModel(deepcopy(lm)).prepare(), list(dict.fromkeys(row.ids[: row.start] for row in asked))
    products = torch.get_float32_matmul_precision()
    took: dict[str, list[tuple[float, float]]] = {}
    for _ in range(repeats):
        said, likelihood = seconds(lambda: likelihood_pass(ours, asked, BATCH), products)
        nll, plain_likelihood = seconds(lambda: plain_pass(lm, asked))
        _, ratio = seconds(lambda: likelihood_pass(ours, others, BATCH), products)
        _, plain_ratio = seconds(lambda: plain_pass(lm, others))
        _, union = seconds(lambda: likelihood_pass(ours, [*asked, *others], BATCH), products)
        answers, plain, answer, plain_answer = generation(ours, lm, prompts, stop, new, products)
        for name, mine, theirs in (
            ("seven likelihood metrics", likelihood, METRICS * plain_likelihood),
            ("answers of the truth ratio", ratio, plain_ratio),
            ("greedy generation", answer, plain_answer),
            ("the whole set", union + answer, METRICS * plain_likelihood + plain_ratio + plain_answer),
        ):
            took.setdefault(name, []).append((mine, theirs))
    found: dict[str, dict[str, Any]] = {
        name: {
            "ratio": statistics.median(theirs / mine for mine, theirs in pairs),
            "ratios": [theirs / mine for mine, theirs in pairs],
            "ours": statistics.median(mine for mine, _ in pairs),
        }
        for name, pairs in took.items()
    }
    pairs = [(a, b) for s, row in zip(said, nll, strict=True) for a, b in zip(s.logp, row, strict=True)]
    found["seven likelihood metrics"]["largest_difference"] = max(abs(a + b) for a, b in pairs)
    found["greedy generation"]["equal"] = statistics.mean(a == b for a, b in zip(answers, plain, strict=True))
    found["greedy generation"]["tokens_a_second"] = sum(map(len, plain)) / found["greedy generation"]["ours"]
    return found


def generation(
    ours: TokenModel,
    lm: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    stop: frozenset[int],
    new: int,
    products: str,
) -> tuple[list[list[int]], list[list[int]], float, float]:
    """Our answers and the plain way's, in the prompts' order, and the CPU seconds of each."""
    order = sorted(prompts, key=len)
    parts = [order[i : i + 4 * BATCH] for i in range(0, len(order), 4 * BATCH)]
    made, mine = seconds(lambda: [greedy(ours, p, ends=stop, new_tokens=new) for p in parts], products)
    plain, theirs = seconds(lambda: plain_answers(lm, prompts, stop, new))
    answers = dict(zip(order, (a for part in made for a in part), strict=True))
    return [answers[p] for p in prompts], plain, mine, theirs


def made_up(count: int) -> tuple[list[Encoded], list[Encoded]]:
    """Random rows, and for each as many other answers as the truth ratio has, of the answer's length."""
    first = rows(1, 0)[0].ids[:TEMPLATE]
    asked = [replace(row, ids=first[: row.start - 4] + row.ids[min(TEMPLATE, row.start - 4) :]) for row in rows(count, 1)]

    def other(row: Encoded, k: int) -> Encoded:
        answer = tuple((i + k) % SHAPES["SmolLM2-135M"]["vocab_size"] for i in row.ids[row.start :])
        return replace(row, ids=row.ids[: row.start] + answer)

    return asked, [other(row, k + 1) for row in asked for k in range(ANSWERS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help="of each set, at most")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=sorted(DTYPES), default="fp32")
    parser.add_argument("--model", help="folder, .gguf or name")
    parser.add_argument("--suite", default="tofu/forget10")
    parser.add_argument("--sets", nargs="*", help="of the suite; none given takes all that are asked")
    parser.add_argument("--generation", action="store_true", help="the greedy answers alone, once")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    exact_matmul()
    if args.model is None:
        lm, stop = model(DTYPES[args.precision]).eval(), frozenset({0})
        asked, others = made_up(args.rows)
    else:
        lm, tokenizer = load(args.model, precision=args.precision)
        encoder, suite = make_encoder(tokenizer, Data()), read_suite(args.suite, Data())
        chosen = [e for name in args.sets or suite.evaluated_sets for e in evenly_spaced(suite.sets[name], args.rows)]  # pyright: ignore
        asked, stop = [encoder(e) for e in chosen], ends(encoder)
        others = [encoder(other) for e in chosen for other in other_answers(e)]
    if args.generation:
        prompts = list(dict.fromkeys(row.ids[: row.start] for row in asked))

        a, b, mine, theirs = generation(
            TokenModel(deepcopy(lm.eval())).prepare(),
            lm,
            prompts,
            stop,
            args.new_tokens,
            torch.get_float32_matmul_precision(),
        )
        print(f"greedy generation of {len(prompts)}: {theirs / mine:.2f}×, {mine:.1f} CPU s ours, equal {a == b}")
        return
    found = compare(lm.eval(), asked, others, stop, new=args.new_tokens, repeats=args.repeats)
    print(f"{len(asked)} rows, {len(others)} other answers, {args.new_tokens} new tokens, {args.precision}")
    for name, figures in found.items():
        more = ", ".join(f"{k} {v:.3g}" for k, v in figures.items() if k not in ("ratio", "ratios", "ours"))
        each = ", ".join(f"{r:.2f}" for r in figures["ratios"])
        print(f"{name}: {figures['ratio']:.2f}× ({each}), {figures['ours']:.1f} CPU s ours{'; ' + more if more else ''}")
    if args.out is not None:
        args.out.write_text(json.dumps({"settings": {k: str(v) for k, v in vars(args).items()}, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
