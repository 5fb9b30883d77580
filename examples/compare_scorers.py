"""What could make the scorer sharper? Variants of it on the demo's world, several seeds, equal steps.

    python examples/compare_scorers.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf

Seeds order the rows. Nothing is generated: a variant is judged by how its importance ranks the forget rows' tokens against
the world's truth (ROC-AUC, average precision), and by what the model has then forgotten: the mean NLL of gold tokens, of the
other tokens of forget rows, and of retain rows. Finished runs are not done again.
"""

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro

from deleatur.cli.console import watch
from deleatur.commands.demo import BUDGET, fine_tuned_model, write_world
from deleatur.commands.demo_scale import FineTuning
from deleatur.commands.inputs import encode_sets, rows_suite
from deleatur.config.recipes import RECIPES
from deleatur.data.encode import make_encoder
from deleatur.data.rows import read_rows
from deleatur.data.world import make_world
from deleatur.evaluation.metrics.agreement import agreement
from deleatur.evaluation.predictions import likelihood_pass, make_record
from deleatur.importance import Contrast, Learned
from deleatur.modeling.loading import load
from deleatur.modeling.patches import exact_matmul
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.settings import Data
from deleatur.training.train import place

BASE = Learned(budget=BUDGET)
VARIANTS = {
    "learned": BASE,
    "learned, warm": replace(BASE, warm=True),
    "learned, negatives 1": replace(BASE, negatives=1.0),
    "learned, negatives 3": replace(BASE, negatives=3.0),
    "learned, predicting state": replace(BASE, state="predicting"),
    "learned, two layers": replace(BASE, depth=2),
    "contrast": Contrast(),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare scorers under one budget."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file of the model to fine-tune on the world."""
    out: str = "runs/scorers"
    """Folder of the results, one file a run."""
    cache: str = "models"
    """Where the fine-tuned model is kept."""
    epochs: int = 5
    """Passes over the 24 forget rows, in batches of 4."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Orders of the rows."""


def main(args: Args) -> None:
    """Runs, then the table."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with watch() as progress:
        world = make_world()
        fine_tuned = fine_tuned_model(args.model, world.fine_tuning_rows, Path(args.cache), FineTuning(), progress=progress)
        write_world(world, fine_tuned / "rows")
        for seed in args.seeds:
            for name in VARIANTS:
                path = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
                if not path.exists():
                    progress.phase(f"{name}, seed {seed}")
                    path.write_text(json.dumps(one(fine_tuned, name, seed, args, progress)))
    print("\n".join(table(out, args)))


def one(fine_tuned: Path, name: str, seed: int, args: Args, progress: Progress) -> dict[str, float]:
    """Unlearn with a variant; what its importance and the model are then."""
    sets = {n: read_rows(str(fine_tuned / "rows" / f"{n}.jsonl"), settings=Data()) for n in ("forget", "retain")}
    recipe = RECIPES["atwu-scorer"]
    train = replace(recipe.train, epochs=args.epochs, batch=4, precision="bf16")
    run = recipe.run(model=str(fine_tuned), forget="f", retain="r", seed=seed, importance=VARIANTS[name], train=train)
    torch.manual_seed(seed)
    exact_matmul()
    lm, tokenizer = load(run.model, precision="bf16")
    model, rows = TokenModel(lm).prepare(), encode_sets(sets, tokenizer, run.data)
    encoder, suite = make_encoder(tokenizer, run.data), rows_suite(sets)
    place(model, run.lora, seed=run.seed, checkpointing=run.train.checkpointing)
    trained = train(Session(model=model, encoder=encoder, suite=suite, rows=rows, progress=progress), run, {})
    importance, steps = trained.importance, trained.steps
    said = likelihood_pass(model, rows["forget"], 32, importance)
    records = [make_record(row, each) for row, each in zip(rows["forget"], said, strict=True)]
    held = likelihood_pass(model, rows["retain"][::6], 32)
    pairs = [(-logp, gold) for r in records for logp, gold in zip(r.logp, r.gold or (), strict=True)]
    seconds = sorted(s.seconds for s in steps)
    return {
        **agreement(records, budget=BUDGET),
        "gold": statistics.fmean(nll for nll, gold in pairs if gold),
        "frame": statistics.fmean(nll for nll, gold in pairs if not gold),
        "retain": statistics.fmean(-logp for r in held for logp in r.logp),
        "seconds": seconds[len(seconds) // 2],
    }


def table(out: Path, args: Args) -> list[str]:
    """Means and standard errors over seeds, in Markdown."""
    lines = [
        "| variant | seeds | ROC-AUC | AP | NLL gold | NLL frame | NLL retain | s/step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        files = [out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json" for seed in args.seeds]
        runs = [json.loads(f.read_text()) for f in files if f.exists()]
        cells = []
        for key, digits in {"roc_auc": 3, "average_precision": 3, "gold": 2, "frame": 2, "retain": 3, "seconds": 2}.items():
            values = [r[key] for r in runs]
            error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.{digits}f}{error}")
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main(tyro.cli(Args))
