"""The settings of an audit. Free of torch; `--help` is made of these docstrings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from deleatur.settings import Precision, require

ATTACK_NAMES = ("ask", "choose", "draw", "compress", "relearn", "member", "nearer", "steer", "depth")
WAY_NAMES = ("plain", "paraphrased", "affirmed", "role", "reversed", "shots3", "shots5", "again")
QUICK = ("ask", "draw", "compress", "relearn", "member")
FORMATS = ("int8", "nf4", "q4_0", "prune10", "prune30", "prune50")
K_QUANT = "q4_k_m"  # by llama.cpp, which has to be there


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSettings:
    """Which attacks are made, and how large each is: the same for every model.

    Raises:
        ConfigError: A setting is out of range.

    Examples:
        >>> from deleatur.auditing import AuditSettings, quick
        >>> settings = quick(AuditSettings(attacks=("ask", "steer")))
        >>> settings.attacks, settings.rows, settings.formats
        (('ask', 'steer'), 24, ('nf4',))
    """

    attacks: tuple[str, ...] = ATTACK_NAMES
    """Attacks to make, in this order."""
    rows: int = 200
    """Most forget rows that are evaluated, spread evenly, at least 1."""
    seed: int = 0
    """Orders rows, draws samples, 0 or more."""
    new_tokens: int = 40
    """Longest generated answer in tokens, at least 1."""
    batch: int = 32
    """Prompts answered at a time, at least 1."""
    precision: Precision | None = None
    """Of matrix products in evaluation and training; weights stay fp32. None: the one that this machine computes faster."""
    ways: tuple[str, ...] = WAY_NAMES
    """Ways to ask; plain has to be among them."""
    samples: int = 64
    """Answers drawn for each question, at least 1 (200 in 2511.04934)."""
    formats: tuple[str, ...] = FORMATS
    """Formats to which weights are rounded or pruned (int8, NF4, Q4_0: 2410.16454; pruned by magnitude); q4_k_m too where
    llama.cpp's llama-quantize is on the PATH."""
    benign_steps: tuple[int, ...] = (15, 30, 60)
    """Steps on the retain rows that are nearest in wording (2406.13356, 2602.03379)."""
    benign_lr: float = 2e-4
    """Learning rate of these adapters, above 0 (2602.03379)."""
    half_lrs: tuple[float, ...] = (2e-5, 1e-4, 2e-4)
    """Learning rates at which half of the subjects is trained and the other half evaluated (2410.08827)."""
    half_epochs: int = 5
    """Passes over that half, at least 1."""
    strengths: tuple[float, ...] = (0.2, 0.5, 1.0)
    """Lengths of the steering direction, in units of the state's own (2606.03291)."""
    windows: int = 3
    """Windows of layers that are steered, from 1 up (2606.03291)."""
    random_directions: int = 10
    """Random directions for comparison with each steering direction, 0 or more (2606.03291)."""
    patched_layers: int = 10
    """Layers whose states are patched, spread evenly, at least 1 (every layer in 2605.24614)."""
    depth_threshold: float = 0.05
    """Nats by which the control's state has to lower the truth for a layer to count, above 0 (2605.24614)."""
    refuser_steps: int = 200
    """Most steps in which the model that only refuses learns to, at least 1."""
    refuser_lr: float = 1e-3
    """Learning rate of its adapters, above 0."""
    rank: int = 8
    """Rank of all adapters, at least 1."""
    train_batch: int = 8
    """Rows in a training step, at least 1."""
    resamples: int = 2000
    """Resamples by subject, at least 200."""

    @property
    def products(self) -> Precision:
        """The precision that products are computed in on this machine."""
        from deleatur.modeling.machine import faster_precision

        return self.precision or faster_precision()

    def __post_init__(self) -> None:
        for attack in self.attacks:
            require(attack in ATTACK_NAMES, "audit.attacks", attack, f"among {', '.join(ATTACK_NAMES)}")
        for way in self.ways:
            require(way in WAY_NAMES, "audit.ways", way, f"among {', '.join(WAY_NAMES)}")
        require("plain" in self.ways, "audit.ways", self.ways, "a list with plain in it")
        for name in self.formats:
            require(name in (*FORMATS, K_QUANT), "audit.formats", name, f"among {', '.join((*FORMATS, K_QUANT))}")
        counts = {"rows": self.rows, "new_tokens": self.new_tokens, "batch": self.batch, "samples": self.samples}
        counts |= {"half_epochs": self.half_epochs, "windows": self.windows, "patched_layers": self.patched_layers}
        counts |= {"refuser_steps": self.refuser_steps, "rank": self.rank, "train_batch": self.train_batch}
        counts |= {"benign_steps": min(self.benign_steps, default=1)}
        for name, value in counts.items():
            require(value >= 1, f"audit.{name}", value, "1 or more")
        require(self.seed >= 0, "audit.seed", self.seed, "0 or more")
        require(self.random_directions >= 0, "audit.random_directions", self.random_directions, "0 or more")
        rates = {"benign_lr": self.benign_lr, "depth_threshold": self.depth_threshold, "refuser_lr": self.refuser_lr}
        rates |= {"half_lrs": min(self.half_lrs, default=1.0)}
        for name, value in rates.items():
            require(value > 0, f"audit.{name}", value, "above 0")
        for value in self.strengths:
            require(0.01 <= value <= 100, "audit.strengths", value, "between .01 and 100")
        require(self.resamples >= 200, "audit.resamples", self.resamples, "200 or more")  # Holm's p of ten attacks


def quick(settings: AuditSettings) -> AuditSettings:
    """The settings of an audit of minutes: fewer attacks, rows, samples, formats and steps; the same rules.

    Args:
        settings: Of the whole audit.

    Returns:
        Those with `ask`, `draw`, `compress`, `relearn` and `member` alone of the attacks, at most 24 rows, and NF4 as the
        only format; attacks, ways, formats and rates that differ from a whole audit's stay as they are.

    Examples:
        >>> from deleatur.auditing import AuditSettings, quick
        >>> settings = quick(AuditSettings(rows=10))
        >>> settings.rows, settings.samples, settings.formats
        (10, 2, ('nf4',))
    """
    whole = AuditSettings()
    lists: dict[str, Any] = {"attacks": QUICK, "ways": ("plain", "affirmed"), "formats": ("nf4",), "half_lrs": ()}
    lists |= {"benign_steps": whole.benign_steps[:1]}
    return replace(
        settings,
        rows=min(settings.rows, 24),
        new_tokens=min(settings.new_tokens, 24),
        samples=min(settings.samples, 2),
        refuser_steps=min(settings.refuser_steps, 60),
        train_batch=min(settings.train_batch, 4),
        **{name: short for name, short in lists.items() if getattr(settings, name) == getattr(whole, name)},
    )
