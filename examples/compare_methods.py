"""Every method on the demo's world: the same model, steps, batches, and number of trials; then more seeds for the best.

    python examples/compare_methods.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf

A method's trials differ in the learning rate; the one with the largest extraction strength on retain minus forget rows
counts (the objective of the search in arXiv 2606.06320). The loss weights are each recipe's own. Finished runs are not done
again, so an interrupted comparison goes on, and several processes may share the work (`--share 0/2`, `--share 1/2`).
"""

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from deleatur.cli.console import watch
from deleatur.commands.demo import BUDGET, fine_tuned_model, write_world
from deleatur.commands.demo_scale import FineTuning
from deleatur.commands.evaluator import make_evaluator
from deleatur.commands.inputs import encode_sets, rows_suite
from deleatur.commands.unlearn import unlearn
from deleatur.config.recipes import RECIPES
from deleatur.data.encode import make_encoder
from deleatur.data.rows import read_rows
from deleatur.data.world import make_world
from deleatur.errors import Diverged
from deleatur.importance import SULLM, Learned
from deleatur.modeling.loading import load
from deleatur.modeling.session import Session
from deleatur.modeling.token_model import TokenModel
from deleatur.progress import Progress
from deleatur.settings import Data, Evaluation


@dataclass(frozen=True, kw_only=True)
class Args:
    """Compare methods under one budget."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file of the model to fine-tune on the world."""
    out: str = "runs/compare"
    """Folder of the results, one file a run."""
    cache: str = "models"
    """Where the fine-tuned model is kept."""
    methods: tuple[str, ...] = tuple(RECIPES)
    """Recipes to compare."""
    rates: tuple[float, ...] = (5e-5, 1.5e-4)
    """Learning rates tried, the budget of every method."""
    epochs: int = 4
    """Passes over the 24 forget rows, in batches of 4."""
    best: int = 5
    """How many methods get more seeds."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Orders of the rows; the first is the one of the trials."""
    share: str = "0/1"
    """Which part of the trials this process does: its number, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run."""

    method: str
    rate: float
    seed: int

    @property
    def file(self) -> str:
        return f"{self.method}-{self.rate:g}-{self.seed}.json"


def main(args: Args) -> None:
    """Trials, seeds, table."""
    number, parts = map(int, args.share.split("/"))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with watch() as progress:
        world = make_world()
        fine_tuned = fine_tuned_model(args.model, world.fine_tuning_rows, Path(args.cache), FineTuning(), progress=progress)
        write_world(world, fine_tuned / "rows")
        runner = Runner(args, fine_tuned, progress)
        trials = [Trial(method=m, rate=r, seed=args.seeds[0]) for r in args.rates for m in args.methods]
        for trial in trials[number::parts]:
            runner(trial)
        results = {t: json.loads((out / t.file).read_text()) for t in trials if (out / t.file).exists()}
        if len(results) < len(trials):
            print(f"{len(trials) - len(results)} trials are with other processes; run again without --share for the table")
            return
        chosen = [max((t for t in trials if t.method == m), key=lambda t: margin(results[t])) for m in args.methods]
        ranked = sorted(chosen, key=lambda t: -(results[t].get("uq") or 0.0))
        again = [replace(t, seed=s) for t in ranked[: args.best] for s in args.seeds[1:]]
        for trial in again:
            runner(trial)
    (out / "table.md").write_text("\n".join(table(ranked, args, out)) + "\n")
    print("\n".join(table(ranked, args, out)))


class Runner:
    """Loads rows once, asks the start model once, and does a trial unless its file is there."""

    def __init__(self, args: Args, fine_tuned: Path, progress: Progress) -> None:
        self.args, self.fine_tuned, self.progress = args, fine_tuned, progress
        self.sets = {n: read_rows(str(fine_tuned / "rows" / f"{n}.jsonl"), settings=Data()) for n in ("forget", "retain")}
        self.sets["retain"] = tuple(replace(e, paraphrases=()) for e in self.sets["retain"])
        self.known: dict[str, Any] | None = None

    def __call__(self, trial: Trial) -> None:
        path = Path(self.args.out) / trial.file
        if path.exists():
            return
        recipe = RECIPES[trial.method]
        importance = recipe.importance
        if isinstance(importance, Learned):
            importance = replace(importance, budget=BUDGET)
        if isinstance(importance, SULLM):
            importance = replace(importance, base=self.args.model)
        run = recipe.run(
            model=str(self.fine_tuned),
            forget="forget",
            retain="retain",
            seed=trial.seed,
            importance=importance,
            train=replace(recipe.train, lr=trial.rate, epochs=self.args.epochs, batch=4, precision="bf16"),
            evaluation=Evaluation(rows=32, new_tokens=32, precision="bf16"),
        )
        model, tokenizer = load(run.model, precision="bf16")
        rows = encode_sets(self.sets, tokenizer, run.data)
        encoder, suite = make_encoder(tokenizer, run.data), rows_suite(self.sets)
        session = Session(model=TokenModel(model).prepare(), encoder=encoder, suite=suite, rows=rows, progress=self.progress)
        if self.known is None:
            self.known = make_evaluator(session, run).before()
        self.progress.phase(f"{trial.method}, rate {trial.rate:g}, seed {trial.seed}")
        try:
            results = unlearn(session, run, known=self.known).results
        except Diverged as e:
            results = {"diverged": str(e)}
        path.with_suffix(".part").write_text(json.dumps(results, indent=1))
        path.with_suffix(".part").rename(path)


def margin(results: dict[str, Any]) -> float:
    """Extraction strength on retain minus on forget rows."""
    if "diverged" in results:
        return -2.0
    after = results["after"]
    return after["retain"]["extraction_strength"]["value"] - after["forget"]["extraction_strength"]["value"]


def table(ranked: list[Trial], args: Args, out: Path) -> Iterator[str]:
    """A Markdown row for each method: means, and standard errors where there are several seeds."""
    columns = "method, rate, seeds, FQ, RD, UQ, ES retain − forget, in other words %, ROC-AUC, CPU s a step, GB".split(", ")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for trial in ranked:
        files = [out / replace(trial, seed=s).file for s in args.seeds]
        runs = [json.loads(f.read_text()) for f in files if f.exists()]
        if any("diverged" in r for r in runs):
            yield f"| {trial.method} | {trial.rate:g} | {len(runs)} | diverged | | | | | | | |"
            continue
        said = lambda r: 100 * r["after"]["forget_paraphrased"]["revealed"]["value"]  # noqa: E731
        cells = [
            *(figure([r[k] for r in runs], 1) for k in ("fq", "rd", "uq")),
            figure([margin(r) for r in runs], 3),
            figure([said(r) for r in runs], 1),
            figure([r["importance"].get("roc_auc", float("nan")) for r in runs], 3),
            figure([r["cost"]["cpu_seconds_per_step"] for r in runs], 2),
            figure([r["cost"]["peak_memory_bytes"] / 1e9 for r in runs], 1),
        ]
        yield f"| {trial.method} | {trial.rate:g} | {len(runs)} | {' | '.join(cells)} |"


def figure(made: list[float | None], digits: int) -> str:
    """Mean, with ± standard error of several."""
    values = [v for v in made if v is not None]
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values) / len(values) ** 0.5:.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Args))
