"""What each verb of the command line takes. Free of torch; `--help` is made of these docstrings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from deleatur.auditing.settings import AuditSettings
from deleatur.config.recipes import RECIPES
from deleatur.config.run_config import Run
from deleatur.importance import IMPORTANCES
from deleatur.losses import FORGET_LOSSES
from deleatur.settings import Data, Evaluation, Judge, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """Fine-tune a model on made-up people, then make it forget some of them."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file of the model to fine-tune."""
    out: str = "runs/demo"
    """Folder of the run; a finished run in it is shown again."""
    cache: str = "models"
    """Folder in which the fine-tuned model is kept for the next time."""
    recipe: str = "atwu"
    """The method, see `deleatur methods`; published ones have the demo's own rates and weights, the same for all."""
    full: bool = False
    """The larger demo of docs/results.md: more people, every weight trained, the chat template; several times as long."""
    people: int | None = None
    """People in the world, more than are forgotten (default: 8, of the full demo 20)."""
    forgotten: int = 2
    """People to forget, at least 1."""
    seed: int = 0
    """Makes the world and orders the rows."""
    fine_tune_epochs: int | None = None
    """Passes over the world's rows in fine-tuning, at least 1 (default: as many as the demo needs)."""
    reference: bool = False
    """Also fine-tune a model on everything but the forgotten people, and show its figures."""

    def __post_init__(self) -> None:
        require(self.forgotten >= 1, "forgotten", self.forgotten, "1 or more")
        require(self.size > self.forgotten, "people", self.size, f"more than are forgotten ({self.forgotten})")
        epochs = self.fine_tune_epochs
        require(epochs is None or epochs >= 1, "fine_tune_epochs", epochs, "1 or more")

    @property
    def size(self) -> int:
        """People in the world."""
        return self.people if self.people is not None else 20 if self.full else 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What each method may spend, the same for all."""

    methods: tuple[str, ...] = tuple(RECIPES)
    """Recipes to compare (see `deleatur methods`)."""
    trials: int = 1
    """Runs to tune each method with, at least 1; the first has the recipe's own settings (20 in 2606.06320)."""
    rates: tuple[float, float] = (1e-6, 1e-4)
    """Lowest and highest learning rate; a recipe's own is brought inside."""
    objective: str | None = None
    """What trials maximise: uq; uq_unseen, its harmonic mean with how near forget rows are to unseen ones; or a metric that
    should fall, on retain minus forget sets (none: the suite's, uq)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Orders of the rows with which the best trial's settings are run."""
    audit: bool = False
    """Audit the model of every run as `deleatur audit --quick` does, and put what came back beside its figures."""
    share: float | None = None
    """Share of an answer's tokens that learned importances take as forget-specific, in (0, 1); none leaves the recipe's."""

    def __post_init__(self) -> None:
        for method in self.methods:
            require(method in RECIPES, "methods", method, f"among {', '.join(RECIPES)}")
        require(self.trials >= 1, "trials", self.trials, "1 or more")
        require(0 < self.rates[0] <= self.rates[1], "rates", self.rates, "two learning rates above 0, the lower one first")
        require(len(self.seeds) >= 1 and min(self.seeds) >= 0, "seeds", self.seeds, "one or more, each 0 or more")
        require(self.share is None or 0 < self.share < 1, "share", self.share, "in (0, 1)")


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Make a model forget rows and keep others. The method is a recipe, changed by whatever else is given. `deleatur forget
    RUN.yaml` repeats a run, with other settings where they are given; `deleatur forget RUN --resume` continues one."""

    run: Annotated[Run, tyro.conf.arg(name="")]
    recipe: Literal[tuple(RECIPES)] = "atwu"  # pyright: ignore[reportInvalidTypeForm]
    """Method to start from (see `deleatur methods`)."""
    forget_loss: Annotated[Literal[tuple(FORGET_LOSSES)] | None, tyro.conf.arg(name="loss")] = None  # pyright: ignore
    """Another forget loss than the recipe's, with its default settings."""
    token_importance: Annotated[Literal[tuple(IMPORTANCES)] | None, tyro.conf.arg(name="importance")] = None  # pyright: ignore
    """Another importance than the recipe's, with its default settings."""
    resume: bool = False
    """Resume the interrupted run in the folder given first, from its newest checkpoint."""
    show: int = 0
    """Print so many rows of each set with the scored tokens marked, and stop before anything is trained; 0 trains."""
    json: bool = False
    """Print results.json, and nothing else, on stdout."""

    def __post_init__(self) -> None:
        require(self.show >= 0, "show", self.show, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate a model on rows, without changing it: a run's model on its rows (`deleatur evaluate RUN`), or any model on
    any rows."""

    model: str
    """Name on the hub, folder, or .gguf file of a causal language model."""
    forget: str | None = None
    """Rows that should be forgotten: file, folder, or data set name."""
    retain: str | None = None
    """Rows that should be kept."""
    holdout: str | None = None
    """Unseen rows."""
    suite: str | None = None
    """Benchmark in place of rows: tofu/forget10, rwku/all, mmlu, …"""
    data: Data = field(default_factory=Data)
    """How rows become examples."""
    evaluation: Evaluation = field(default_factory=Evaluation)
    """How the model is evaluated."""
    judge: Judge = field(default_factory=Judge)
    """Decides whether an answer reveals the fact."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval to run as well, such as mmlu or truthfulqa_mc1 (pip install 'deleatur[lm-eval]')."""
    out: str | None = None
    """New folder for records and results.json (default: nothing is written)."""
    resume: bool = False
    """Resume the interrupted evaluation in the folder given first; for a finished one print the figures again."""
    json: bool = False
    """Print the figures as JSON, and nothing else, on stdout."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Attack a model to see whether forgotten rows come back. The same attacks are made on the original, on a model never
    trained on the rows, and on one that only refuses. Exits 0 when clear, 1 at a leak, 3 when void or inconclusive."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a run, or any model: name on the hub, folder (also of an adapter), or .gguf file."""
    original: str | None = None
    """The model as it was before (of a run: its own)."""
    retrained: str | None = None
    """Model never trained on the rows to forget; without one, unseen rows (--holdout) are the control."""
    forget: str | None = None
    """Rows that should be forgotten: file, folder, or data set name (of a run: its own)."""
    retain: str | None = None
    """Rows that should be kept."""
    holdout: str | None = None
    """Unseen rows."""
    suite: str | None = None
    """Benchmark in place of rows: tofu/forget10, rwku/all, …"""
    data: Data = field(default_factory=Data)
    """How rows become examples."""
    judge: Judge = field(default_factory=Judge)
    """Decides whether an answer reveals the fact."""
    audit: AuditSettings = field(default_factory=AuditSettings)
    """Attacks and their sizes."""
    quick: bool = False
    """A short audit, of minutes: five attacks with one or two settings each, on at most 24 rows."""
    out: str | None = None
    """Folder of the audit (default: runs/audit-NAME); the same command resumes an audit, or joins one that is running."""
    controls: str | None = None
    """Folder of another audit with the same rows, settings, original and retrained model: its controls are taken over."""
    redact: bool = False
    """Leave the text of rows and answers out of the page."""
    json: bool = False
    """Print audit.json, and nothing else, on stdout."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Show a run's answers coloured by importance, and write importance.jsonl."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    rows: str | None = None
    """Other rows than the run's forget rows: file, folder, or data set name; written to importance-<name>.jsonl."""
    model: str | None = None
    """Another model than the run's, of the same width."""
    limit: int = 20
    """Rows to print, at least 1."""

    def __post_init__(self) -> None:
        require(self.limit >= 1, "limit", self.limit, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write report.html into a run's folder, from the files there; or its results in another tool's form."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    form: Literal["page", "open-unlearning", "lm-eval"] = "page"
    """report.html, OpenUnlearning's TOFU_EVAL.json and TOFU_SUMMARY.json, or lm-eval's results as lm_eval.json."""
    redact: bool = False
    """Leave out the text of rows and answers, and paths of rows; the page is then report-redacted.html."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a finished run's model for others: merged safetensors, tokenizer, and a model card with the evidence."""

    run: Annotated[str, tyro.conf.Positional]
    """Folder of the run."""
    dest: Annotated[str, tyro.conf.Positional]
    """New folder for the model."""
    gguf: bool = False
    """Also write model.gguf, in the weights' own precision (pip install 'deleatur[gguf]')."""
    name_rows: bool = False
    """List in the card the rows that were to be forgotten; else the rows go by their SHA-256."""
    license: str | None = None
    """The hub's name of a licence (default: the base model's, where its card is on this machine)."""
    ledger: str | None = None
    """Ledger of deletion requests (default: the one beside the run or its folder, where there is one)."""
    audits: tuple[str, ...] = ()
    """Folders of the requests' audits, beside those that are looked for: audit in a request's run, and runs/audit-NAME."""
    warn: bool = False
    """Warn, and say so in the card, where the ledger has a request that is open or known, or whose audit is bad."""
    push: str | None = None
    """Put the folder on the hub as owner/name; a new one is private."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Tune and run several methods on equal terms. Rows or a suite, schedule and evaluation are those of `forget`; loss,
    importance, learning rate and weights are each method's own."""

    run: Annotated[Run, tyro.conf.arg(name="")]
    budget: Annotated[Budget, tyro.conf.arg(name="")] = field(default_factory=Budget)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Put finished runs side by side: table.md, table.tex, table.json and report.html."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of runs, or files of results, also OpenUnlearning's and lm-eval's; seeds of one method become one row."""
    out: str = "runs/comparison"
    """Folder of the table and the page."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """List what is measured: where it should go, what it means, and where it is from."""

    markdown: bool = False
    """Print a Markdown table (docs/metrics.md is one)."""


@dataclass(frozen=True, kw_only=True)
class Methods:
    """List the methods by name: forget loss, importance, training, what they need, paper, where the settings come from."""

    markdown: bool = False
    """Print a Markdown table (docs/methods.md is one)."""
