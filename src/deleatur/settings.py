"""The parts of a run that are plain numbers and names. Free of torch, so that `--help` is quick.

Each class raises ConfigError for a value out of the range that its field's docstring gives.

Examples:
    >>> from deleatur.settings import Evaluation, Lora, Train
    >>> Train(lr=1e-4).epochs, Lora(rank=16).alpha, Evaluation(new_tokens=16).batch
    (10, 32, 32)
    >>> Train(epochs=0)
    Traceback (most recent call last):
    deleatur.errors.ConfigError: train.epochs is 0, but must be 1 or more
"""

import math
import re
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from deleatur.errors import ConfigError

__all__ = ["Data", "Evaluation", "Guard", "Judge", "Keep", "Lora", "Precision", "Range", "Train"]
SELECTED = 0.5  # importance above which a token counts as one to be forgotten
Precision = Literal["fp32", "bf16"]


def require(ok: bool, name: str, value: object, needed: str) -> None:
    """Refuse a setting: `require(lr > 0, "lr", lr, "above 0")`."""
    if isinstance(value, float) and not math.isfinite(value):
        ok, needed = False, f"{needed}, and finite"
    if not ok:
        raise ConfigError(f"{name} is {value!r:.80}, but must be {needed}")


def is_day(text: str) -> bool:
    """Is this a day as YYYY-MM-DD?"""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def is_pattern(text: str) -> bool:
    """Is this a regular expression?"""
    try:
        re.compile(text)
    except re.error:
        return False
    return True


class Range(NamedTuple):
    """Values that a search tries for a number."""

    low: float
    high: float
    log: bool = False  # on a logarithmic scale?


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """How rows become examples."""

    root: str | None = None
    """Folder in which data set names are looked up before the hub (default: $DELEATUR_DATA)."""
    template: Literal["auto", "chat", "plain"] = "auto"
    """The tokenizer's chat template, a plain "Question: … Answer: …", or chat where the tokenizer has one."""
    layout: Literal["own", "open-unlearning"] = "own"
    """Ids up to the end of turn, or OpenUnlearning's: the template's full rendering, and an eos where that is not last."""
    max_length: int = 1024
    """Tokens of prompt and answer together, at least 8; longer rows are cut at the answer's end, and counted."""
    ignore: tuple[str, ...] = ()
    """Columns of the rows that are known and not needed."""
    columns: tuple[str, ...] = ()
    """Columns by other names, as question=prompt answer=reply.text (a.b leads into an object, a.0 into a list); a name may
    come again for files that have another column, and files that need none of it stay as they are."""
    turns: Literal["last", "each"] = "last"
    """Of a conversation the last answer is a row, or each answer, with the turns before it."""
    split: int | None = None
    """Cut texts without a question into windows of so many tokens, 16 to max_length; none cuts them at max_length alone."""
    overlap: int = 0
    """Tokens that a window has in common with the one before, 0 or more, below half of split."""
    system_prompt: str | None = None
    """System turn of every row that has none of its own; with a plain layout it is put before the question."""
    fold_system: bool = False
    """Set a system turn's text before the first user turn's, for chat templates that refuse the role."""
    date: str = "2025-04-10"
    """The day, as YYYY-MM-DD, for chat templates that print today's, so that a run can be repeated."""
    reasoning_tokens: int = 512
    """Longest reasoning before an answer, at least 1, where the chat template opens a block for it that nothing closes."""

    def __post_init__(self) -> None:
        require(self.max_length >= 8, "data.max_length", self.max_length, "8 tokens or more")
        require(self.reasoning_tokens >= 1, "data.reasoning_tokens", self.reasoning_tokens, "1 or more")
        pairs = all(re.fullmatch(r"[^=\s]+=\S.*", pair) for pair in self.columns)
        require(pairs, "data.columns", " ".join(self.columns), "pairs such as question=prompt answer=reply")
        ok = self.split is None or 16 <= self.split <= self.max_length
        require(ok, "data.split", self.split, f"16 to data.max_length ({self.max_length})")
        require(
            0 <= self.overlap < (self.split or 2) / 2, "data.overlap", self.overlap, "0 or more, below half of data.split"
        )
        require(is_day(self.date), "data.date", self.date, "a day as YYYY-MM-DD")
        require(
            self.system_prompt is None or bool(self.system_prompt.strip()), "data.system_prompt", "", "text, or left out"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Lora:
    """Train low-rank adapters instead of all weights; merged when saved, since the base model alone still knows it all."""

    rank: int | None = None
    """Rank of adapters on all linear layers but the head and on fused experts, at least 1; none trains all weights."""
    alpha: int = 32
    """Scale of the adapters' sum, above 0 (their output is multiplied by alpha / rank)."""
    bits: int | None = None
    """4 holds the base in NF4 while it is trained (QLoRA); evaluated afterwards and saved in bf16, adapters merged."""

    def __post_init__(self) -> None:
        require(self.rank is None or self.rank >= 1, "lora.rank", self.rank, "1 or more")
        require(self.bits in (None, 4), "lora.bits", self.bits, "4, or none for weights as they are")
        require(self.bits is None or self.rank is not None, "lora.rank", self.rank, "given with lora.bits, 16 for a start")
        require(self.alpha > 0, "lora.alpha", self.alpha, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """The model's turn: L = alpha · mean NLL(retain) + gamma · forget loss."""

    epochs: int = 10
    """Passes over the forget rows, at least 1; each forget row is paired with a random retain row."""
    batch: int = 8
    """Forget rows in one forward, at least 1, and as many retain rows."""
    tokens: int | None = None
    """Most tokens of all rows in one forward, at least 1, in place of `batch`; a pair that has more goes alone."""
    accumulate: int = 1
    """Forwards per optimizer step, at least 1."""
    lr: float = 2e-5
    """Peak learning rate of AdamW, above 0; reached after the warm-up, then falling linearly to 0."""
    warmup: float = 0.1
    """Share of the steps over which the rate rises, in [0, 1)."""
    weight_decay: float = 0.01
    """AdamW's weight decay, 0 or more."""
    clip: float = 1.0
    """Largest norm of the model's gradient, above 0."""
    alpha: float = 1.0
    """Weight of the retain loss, 0 or more."""
    gamma: float = 1.0
    """Weight of the forget loss, 0 or more."""
    keep: float = 0.0
    """Weight of (1 − importance)·KL from the start model on forget tokens (erase: from their level), 0 or more."""
    retain: Literal["nll", "kl", "js", "layer"] = "nll"
    """What holds retain tokens: NLL, KL or Jensen-Shannon divergence from the start model, or a middle layer's state."""
    own_answers: bool = False
    """Hold the start model's own answers to the retain rows too, where they differ from the rows' answers."""
    bound: float | None = None
    """Retain NLL in nats that is allowed, 0 or more: alpha rises above it and falls below it; none keeps alpha fixed."""
    dual_step: float = 1.0
    """How fast alpha follows, per step and nat, above 0; without a bound it does nothing."""
    only: str | None = None
    """Regular expression found in the names of the weights to train; none trains all."""
    precision: Precision = "fp32"
    """fp32, or bf16 weights with an fp32 master copy in the optimizer."""
    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a quarter more time."""

    def __post_init__(self) -> None:
        for name, value in {"epochs": self.epochs, "batch": self.batch, "accumulate": self.accumulate}.items():
            require(value >= 1, f"train.{name}", value, "1 or more")
        require(self.tokens is None or self.tokens >= 1, "train.tokens", self.tokens, "1 or more")
        for name, value in {"lr": self.lr, "clip": self.clip, "dual_step": self.dual_step}.items():
            require(value > 0, f"train.{name}", value, "above 0")
        require(self.bound is None or self.bound >= 0, "train.bound", self.bound, "0 or more")
        require(self.only is None or is_pattern(self.only), "train.only", self.only, "a regular expression")
        for name, value in {
            "weight_decay": self.weight_decay,
            "alpha": self.alpha,
            "gamma": self.gamma,
            "keep": self.keep,
        }.items():
            require(value >= 0, f"train.{name}", value, "0 or more")
        require(0 <= self.warmup < 1, "train.warmup", self.warmup, "in [0, 1)")

    def on_schedule(self, other: "Train") -> "Train":
        """This method's rate, weights and terms on another's schedule, in its precision, and on its weights or own ones."""
        shared = ("epochs", "batch", "tokens", "accumulate", "warmup", "weight_decay", "clip", "precision", "checkpointing")
        return replace(self, only=self.only or other.only, **{name: getattr(other, name) for name in shared})


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Checkpoints during training, from which an interrupted run is resumed (`--resume`); a finished run keeps none."""

    every: int | None = 50
    """Steps between two checkpoints, at least 1; none keeps one only on a stop signal."""
    newest: int = 1
    """How many checkpoints stay, at least 1; each takes 12 bytes a trained weight."""

    def __post_init__(self) -> None:
        require(self.every is None or self.every >= 1, "keep.every", self.every, "1 or more")
        require(self.newest >= 1, "keep.newest", self.newest, "1 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """When training ends by itself: before harm, rolled back to the last checkpoint, or when it is done."""

    retain: float | None = 3.0
    """Times its start (1 nat at least) that the retain rows' NLL may reach, a mean over 5 steps, above 1; none: any."""
    probe: float | None = 2.0
    """The same for a dozen everyday sentences, evaluated before each checkpoint; none evaluates none."""
    stop: int | None = 5
    """Steps between looks, at least 1: done once forget tokens are as unlikely as in unseen rows; none trains every step."""
    budget: float = 0.1
    """Nats by which the retain rows' NLL may have risen where training stops as done, 0 or more."""

    def __post_init__(self) -> None:
        for name, factor in {"retain": self.retain, "probe": self.probe}.items():
            require(factor is None or factor > 1, f"guard.{name}", factor, "above 1")
        require(self.stop is None or self.stop >= 1, "guard.stop", self.stop, "1 or more")
        require(self.budget >= 0, "guard.budget", self.budget, "0 or more")


UNGUARDED = Guard(retain=None, probe=None)  # a bench's: harm is a result there


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """How the model is evaluated before and after."""

    new_tokens: int = 64
    """Longest greedy answer in tokens, at least 1."""
    batch: int = 32
    """Rows in one forward, at least 1; twice as many are answered at a time, on CPU four times as many."""
    rows: int | None = None
    """Most rows of a set that are evaluated, spread evenly, at least 1 (default: all of a suite's, 200 of your own)."""
    precision: Precision = "fp32"
    """Compare numbers only at equal precision; bf16 moves a mean NLL by about .01."""
    shots: int = 0
    """Evaluate forget questions also with so many answered retain questions before them, 0 or more; 3 in 2606.06320."""
    grad_norm: bool = False
    """Measure each row's gradient norm for its membership attack, a backward pass a row."""
    retrained: str | None = None
    """Model never trained on the forget rows: name, folder, or .gguf; forget quality and PrivLeak compare with it."""
    start: str | None = None
    """Model that scores whether answers are coherent: name, folder, or .gguf (default: the model before training)."""

    def __post_init__(self) -> None:
        require(self.shots >= 0, "evaluation.shots", self.shots, "0 or more")
        require(self.new_tokens >= 1, "evaluation.new_tokens", self.new_tokens, "1 or more")
        require(self.rows is None or self.rows >= 1, "evaluation.rows", self.rows, "1 or more")
        require(self.batch >= 1, "evaluation.batch", self.batch, "1 or more")


def is_base_url(text: str) -> bool:
    """Can paths be put behind it, and is there no secret in it?"""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    bare = parts.username is None and not parts.query and not parts.fragment
    return known and bare and text.isprintable() and " " not in text and not text.rstrip("/").endswith("/completions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """Decides whether a generated answer still reveals the fact."""

    kind: Literal["contained", "cosine", "endpoint"] = "contained"
    """The fact's own words; its meaning, by a local embedding model; or a language model behind `url`, which implies it."""
    model: str | None = None
    """cosine: folder or hub name of an embedding model (default: all-MiniLM-L6-v2); endpoint: the name of its model."""
    url: str | None = None
    """OpenAI-compatible base URL (http://localhost:8000/v1): forget texts are sent there; key in $DELEATUR_JUDGE_KEY."""
    # the middle of three that examples/calibrate_judge.py finds on TOFU: .83, .86, .87, of AUC .97, .94, .90
    threshold: float = 0.86
    """cosine: similarity above which an answer counts as the fact, in (0, 1)."""
    per_minute: int | None = None
    """endpoint: most questions a minute, at least 1; none sets no limit."""
    retries: int = 5
    """endpoint: how often a question is sent again when the endpoint is busy, fails or is unclear, 0 or more."""

    def __post_init__(self) -> None:
        if self.url is not None and self.kind == "contained":
            object.__setattr__(self, "kind", "endpoint")  # so that --judge.url alone says it
        right = is_base_url(self.url or "") if self.kind == "endpoint" else self.url is None
        needed = "an http(s):// base URL, with no user, no ? or # and no /chat/completions"
        require(right, "judge.url", self.url, needed if self.kind == "endpoint" else f"left out with judge.kind {self.kind}")
        require(0 < self.threshold < 1, "judge.threshold", self.threshold, "in (0, 1)")
        require(self.per_minute is None or self.per_minute >= 1, "judge.per_minute", self.per_minute, "1 or more")
        require(self.retries >= 0, "judge.retries", self.retries, "0 or more")
