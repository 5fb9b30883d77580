"""TOFU at a tenth of its size: a model is fine-tuned on 400 rows about 20 authors, then forgets two of them.

    DELEATUR_DATA=folder python examples/tofu_forget01.py --model HuggingFaceTB/SmolLM2-135M-Instruct

Rows are read from the folder (tofu/forget01.jsonl, …) or, without one, from the hub (locuslab/TOFU). Entity spans of
forget10, where the folder has them (tofu/annotations/uds_forget10_367.jsonl, unlearning-depth-score), become the truth that
importance is compared with; nothing else reads them.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from deleatur.cli.console import print_results, watch
from deleatur.commands.demo import fine_tuned_model, row_of
from deleatur.commands.demo_scale import FINE_TUNING, FineTuning
from deleatur.commands.unlearn import execute
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run
from deleatur.data.rows import read_rows
from deleatur.settings import Data, Evaluation
from deleatur.types import Example, Span

FORGET10_STARTS = 3600  # forget10 is the last 400 rows of full, forget01 the last 40


@dataclass(frozen=True, kw_only=True)
class Args:
    """Tell, forget, show."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file."""
    root: str | None = None
    """Folder with tofu/*.jsonl (default: $DELEATUR_DATA, then the hub)."""
    recipe: str = "atwu"
    """The method."""
    out: str = "runs/tofu-forget01"
    """Folder of the run."""
    cache: str = "models"
    """Where the fine-tuned model is kept."""
    fine_tune_epochs: int = 5
    """Passes over the 400 rows."""
    epochs: int = 10
    """Passes over the 40 forget rows."""
    seed: int = 0
    """Orders the rows."""


def rows_of(root: str | None, name: str) -> tuple[Example, ...]:
    """A TOFU split: `tofu/<name>` in the folder, or the hub's configuration of that name."""
    import os

    base = root or os.environ.get("DELEATUR_DATA")
    return read_rows(f"tofu/{name}" if base else f"locuslab/TOFU/{name}", settings=Data(root=root))


def with_spans(rows: tuple[Example, ...], first: int, root: str | None) -> tuple[Example, ...]:
    """The rows with their entity spans; `first` is the place in forget10 of the first row."""
    import os

    path = Path(root or os.environ.get("DELEATUR_DATA", "")) / "tofu/annotations/uds_forget10_367.jsonl"
    if not path.exists():
        return rows
    marks = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    spans = {m["idx"]: Span(start=m["entity_char_span"][0], end=m["entity_char_span"][1]) for m in marks}
    return tuple(replace(r, spans=(spans[first + i],) if first + i in spans else ()) for i, r in enumerate(rows))


def main(args: Args) -> None:
    """Everything, from the rows to the table."""
    forget = with_spans(rows_of(args.root, "forget01"), 360, args.root)
    retain = rows_of(args.root, "retain99")[FORGET10_STARTS:]
    recipe = RECIPES[args.recipe]
    with watch() as progress:
        model = fine_tuned_model(
            args.model,
            retain + forget,
            Path(args.cache),
            FineTuning(train=replace(FINE_TUNING, epochs=args.fine_tune_epochs, batch=16), seed=args.seed),
            progress=progress,
        )
        rows = model / "rows"
        rows.mkdir(exist_ok=True)
        for name, examples in {"forget": forget, "retain": retain}.items():
            lines = [json.dumps(row_of(e), ensure_ascii=False) + "\n" for e in examples]
            (rows / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        run: Run = recipe.run(
            model=str(model),
            forget=str(rows / "forget.jsonl"),
            retain=str(rows / "retain.jsonl"),
            out=args.out,
            seed=args.seed,
            train=replace(recipe.train, epochs=args.epochs, batch=4, precision="bf16"),
            evaluation=Evaluation(rows=60, new_tokens=64),
        )
        out = execute(run, progress)
    print_results(json.loads((out / "results.json").read_text()), out)


if __name__ == "__main__":
    main(tyro.cli(Args))
