"""Fine-tune a model on what a benchmark has it forget and keep, where no such model is to be had.

    DELEATUR_DATA=... python examples/fine_tune.py --suite tofu/twenty --model models/SmolLM2-135M-Instruct.Q4_1.gguf

Prints the folder of the model, for `deleatur forget` and `deleatur bench` with the same suite. With `--retain-only` it is
the retrained model that these compare with (`evaluation.retrained`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from deleatur.cli.console import watch
from deleatur.commands.demo import fine_tuned_model
from deleatur.commands.demo_scale import FINE_TUNING, FineTuning
from deleatur.data.suites import read_suite
from deleatur.settings import Data


@dataclass(frozen=True, kw_only=True)
class Args:
    """Fine-tune a model on a suite's rows."""

    suite: str
    """The suite, as tofu/twenty."""
    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file."""
    cache: str = "models"
    """Where the fine-tuned model is kept."""
    epochs: int = 5
    """Passes over the rows."""
    batch: int = 16
    """Rows a step."""
    lr: float = FINE_TUNING.lr
    """Peak learning rate."""
    only: str | None = None
    """Pattern of the weights that are trained, as of `train.only`."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 is much slower on a processor that has no instructions for it."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """How prompts are written, as of `data.template`."""
    retain_only: bool = False
    """Leave out the rows to forget: the reference, a model that was never trained on them."""
    seed: int = 0
    """Orders the rows."""


def main(args: Args) -> None:
    """Fine-tune on the retain rows and, unless they are left out, the forget rows."""
    sets = read_suite(args.suite, Data()).sets
    rows = sets["retain"] if args.retain_only else (*sets["retain"], *sets["forget"])
    with watch() as progress:
        trained = {"epochs": args.epochs, "batch": args.batch, "lr": args.lr, "only": args.only, "precision": args.precision}
        settings = replace(FINE_TUNING, **trained)
        how = FineTuning(train=settings, data=Data(template=args.template), seed=args.seed)
        folder = fine_tuned_model(args.model, rows, Path(args.cache), how, progress=progress)
    print(folder)


if __name__ == "__main__":
    main(tyro.cli(Args))
