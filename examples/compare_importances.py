"""Which importance, made without labels, finds what a model retrained without the forget rows would not know?

    python examples/compare_importances.py --suite tofu/tenth --model FINE-TUNED --retrained WITHOUT-THE-FORGET-ROWS
    python examples/compare_importances.py --model ... --retrained ... --forget f.jsonl --retain r.jsonl

The retrain gap of a token is log p under the model minus log p under the retrained one, in nats. A token counts as
forget-specific where the gap is above 1 nat; the second truth are the rows' marked spans. Each importance is made from the
model alone, before any training, and judged by ROC-AUC over all scored tokens of the forget rows, with the tokens' own NLL
and minus the log count of the token in the retain answers as baselines. `--gap FILE` writes every token's gap as JSON lines.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from deleatur.commands.inputs import encode_sets, suite_of
from deleatur.config.run_config import Run
from deleatur.evaluation.metrics.agreement import roc_auc
from deleatur.importance import SEUL, Contrast, Novelty, SUNgram, TokenUnlearn
from deleatur.importance.novelty import novelty
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.reference import likelihoods, start_of
from deleatur.modeling.start_pass import StartPass
from deleatur.modeling.token_model import TokenModel
from deleatur.settings import Data
from deleatur.types import Encoded, Start

GAP = 1.0  # nats
IMPORTANCES: dict[str, Callable[[], object]] = {
    "novelty (atwu)": Novelty,
    "contrast": Contrast,
    "tokenunlearn": TokenUnlearn,
    "seul": SEUL,
    "su-ngram": SUNgram,
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare importances with the retrain gap and with marked spans."""

    model: str
    """Fine-tuned model: folder, hub name or .gguf file."""
    retrained: str
    """The same, fine-tuned without the forget rows."""
    suite: str | None = None
    """Benchmark, as tofu/tenth; or give forget and retain rows."""
    forget: str | None = None
    """Rows to forget."""
    retain: str | None = None
    """Rows to keep."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """How prompts are written, as of `data.template`; the demo's models are trained with plain ones."""
    gap: str | None = None
    """File for every token's gap."""


def main(args: Args) -> None:
    """Prints the table in Markdown."""
    exact_matmul()
    data = Data(template=args.template)
    run = Run(model=args.model, suite=args.suite, forget=args.forget, retain=args.retain, data=data)
    model, tokenizer = load(args.model)
    sets = {name: rows for name, rows in suite_of(run).sets.items() if name in ("forget", "retain")}
    rows = encode_sets(sets, tokenizer, run.data)
    network, other = TokenModel(model).prepare(), TokenModel(load(args.retrained)[0]).prepare()
    own, without = (
        torch.cat([x.nll for x in likelihoods(StartPass(m, batch=16), rows["forget"])]) for m in (network, other)
    )
    gap = without - own
    if args.gap:
        write_gap(Path(args.gap), rows["forget"], gap)
    truths = {f"retrain gap > {GAP:g} nat": (gap > GAP, torch.ones(len(gap), dtype=torch.bool))}
    marked = torch.cat([torch.full((len(r.offsets),), r.gold is not None) for r in rows["forget"]])
    if bool(marked.any()):
        gold = torch.tensor([g for r in rows["forget"] for g in (r.gold or [False] * len(r.offsets))])
        truths["marked spans"] = gold, marked
    print(
        f"{len(rows['forget'])} forget rows, {len(gap)} scored tokens, {float((gap > GAP).float().mean()):.1%} with a gap\n"
    )
    print("| importance | " + " | ".join(truths) + " |\n|---|" + "---|" * len(truths))
    start = start_of(StartPass(network, batch=16), rows, precision="fp32")
    for name, values in scored(start, rows, own):
        cells = [f"{roc_auc(values[where].numpy(), truth[where].numpy()):.3f}" for truth, where in truths.values()]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def scored(start: Start, rows: dict[str, list[Encoded]], own: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Every importance over the forget rows' scored tokens, by name; then the parts of novelty and baselines, each also
    with 0 for the words that the prompt already says."""
    for name, make in IMPORTANCES.items():
        made = make().prepare(start)  # pyright: ignore[reportAttributeAccessIssue]
        yield name, torch.cat([made.values[row].float() for row in rows["forget"]])
    counts = Counter(token for row in rows["retain"] for token in row.ids[row.start :])
    seen = torch.tensor([counts[token] for row in rows["forget"] for token in row.ids[row.start :]])
    parts = novelty(Novelty(), start, rows["retain"], rows["forget"])
    single = {
        "leverage": parts.leverage,
        "vote of similar retain states": -parts.vote,
        "own NLL": own,
        "minus log count in retain answers": -(seen + 1.0).log(),
    }
    for name, values in single.items():
        yield name, values
        yield f"{name}, copied words 0", values.masked_fill(parts.copied, float(values.min()) - 1)


def write_gap(path: Path, rows: list[Encoded], gap: torch.Tensor) -> None:
    """A line a row: its id, and each scored token's characters and gap in nats."""
    parts = gap.split([len(row.offsets) for row in rows])
    with path.open("w", encoding="utf-8") as out:
        for row, values in zip(rows, parts, strict=True):
            tokens = [[a, b, round(v, 4)] for (a, b), v in zip(row.offsets, values.tolist(), strict=True)]
            out.write(json.dumps({"id": row.example.id, "tokens": tokens}) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
