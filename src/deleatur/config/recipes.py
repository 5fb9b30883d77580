"""Named methods with the settings to start from, as plain values."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypedDict

from deleatur.config.method import requirements_of
from deleatur.config.run_config import Run
from deleatur.errors import ConfigError
from deleatur.importance import (
    ETW,
    SEUL,
    SULLM,
    WGA,
    AnyImportance,
    Contrast,
    Learned,
    Novelty,
    SatImp,
    Spans,
    SUNgram,
    TokenUnlearn,
    Uniform,
)
from deleatur.losses import (
    CEU,
    DPO,
    NPO,
    PDU,
    RMU,
    UNDIAL,
    AltPO,
    AnyForgetLoss,
    Erase,
    GradientDifference,
    JensUn,
    SimNPO,
)
from deleatur.progress import Progress
from deleatur.protocols import ImportanceSettings
from deleatur.settings import Data, Evaluation, Guard, Judge, Lora, Train


class ForgetSettings(TypedDict, total=False):
    """What `deleatur.forget` takes besides model and rows, so that a type checker finds a misspelt name."""

    recipe: str
    progress: Progress
    seed: int
    subject: tuple[str, ...]
    loss: Callable[..., Any]  # a ForgetLoss, or a plain function
    importance: ImportanceSettings | Callable[..., Any]
    data: Data
    lora: Lora
    train: Train
    guard: Guard
    evaluation: Evaluation
    judge: Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A pair of forget loss and importance, how it is trained, the paper it is from, and where the settings come from."""

    loss: AnyForgetLoss
    importance: AnyImportance = field(default_factory=Uniform)
    train: Train = field(default_factory=Train)
    paper: str
    source: str

    def run(self, **settings: Any) -> Run:
        """A run of this method; `settings` are the run's other fields, and replace the recipe's own."""
        return Run(**({"loss": self.loss, "importance": self.importance, "train": self.train} | settings))

    @property
    def needs(self) -> tuple[str, ...]:
        """What a user must have besides rows to forget and to keep, and what it costs besides the step."""
        return requirements_of(self.loss, self.importance, self.train).texts


SEARCH = "best of the authors' search, Llama-3.2-1B on TOFU forget10 (2606.06320)"
TUNED = "made-up world, SmolLM2-135M (docs/log.md)"
PEER = "default of OpenUnlearning"
OURS = Train(lr=5e-5, gamma=3.0)
ERASE = Train(lr=1e-4, alpha=3.0, keep=1.0, retain="kl", own_answers=True)


def check_recipe(name: str) -> None:
    """Raises ConfigError for a name that no recipe has."""
    if name not in RECIPES:
        raise ConfigError(f"recipe is {name!r}, but must be one of {', '.join(RECIPES)}")


RECIPES: dict[str, Recipe] = {
    "atwu": Recipe(loss=Erase(), importance=Novelty(), train=ERASE, paper="2606.06320, loss and scores ours", source=TUNED),
    "atwu-scorer": Recipe(
        loss=GradientDifference(saturation=5.0), importance=Learned(), train=OURS, paper="2606.06320", source=TUNED
    ),
    "atwu-paper": Recipe(
        loss=GradientDifference(saturation=7.37),
        importance=Learned(every=5),
        train=Train(lr=2.07e-5, gamma=4.65, alpha=0.898),
        paper="2606.06320",
        source=SEARCH,
    ),
    "gradascent": Recipe(loss=GradientDifference(), train=Train(lr=1e-5, alpha=0.0), paper="2210.01504", source=PEER),
    "graddiff": Recipe(
        loss=GradientDifference(), train=Train(lr=1.9e-5, gamma=0.116, alpha=0.797), paper="2203.12817", source=SEARCH
    ),
    "wga": Recipe(
        loss=GradientDifference(),
        importance=WGA(beta=2.135),
        train=Train(lr=1.57e-5, gamma=1.158, alpha=0.787),
        paper="2502.19301",
        source=SEARCH,
    ),
    "satimp": Recipe(loss=GradientDifference(), importance=SatImp(beta1=5.0, beta2=1.0), paper="2505.11953", source=PEER),
    "etw": Recipe(
        loss=GradientDifference(), importance=ETW(), train=Train(gamma=0.116), paper="2604.17785", source="as graddiff"
    ),
    "tokenunlearn": Recipe(
        loss=NPO(), importance=TokenUnlearn(share=0.5), train=Train(gamma=0.123), paper="2605.00364", source="as npo"
    ),
    "seul": Recipe(
        loss=GradientDifference(), importance=SEUL(), train=Train(gamma=0.116), paper="2402.05813", source="as graddiff"
    ),
    "su-llm": Recipe(loss=NPO(), importance=SULLM(), train=Train(gamma=0.123), paper="2506.00876", source="as npo"),
    "su-ngram": Recipe(loss=NPO(), importance=SUNgram(), train=Train(gamma=0.123), paper="2506.00876", source="as npo"),
    "contrast": Recipe(
        loss=GradientDifference(saturation=5.0), importance=Contrast(), train=OURS, paper="ours", source="as atwu-scorer"
    ),
    "atwu-warm": Recipe(
        loss=GradientDifference(saturation=5.0),
        importance=Learned(warm=True),
        train=OURS,
        paper="2606.06320, begun at ours",
        source="as atwu-scorer",
    ),
    "atwu-negatives": Recipe(
        loss=GradientDifference(saturation=5.0),
        importance=Learned(negatives=3.0),
        train=OURS,
        paper="2606.06320, retain tokens as negatives ours",
        source="as atwu-scorer",
    ),
    "spans": Recipe(
        loss=GradientDifference(saturation=5.0),
        importance=Spans(),
        train=OURS,
        paper="2506.03142",
        source="as atwu-scorer; upper reference",
    ),
    "erase-spans": Recipe(loss=Erase(), importance=Spans(), train=ERASE, paper="ours", source="as atwu; upper reference"),
    "npo": Recipe(loss=NPO(beta=0.099), train=Train(lr=2.6e-5, gamma=0.123, alpha=4.09), paper="2404.05868", source=SEARCH),
    "npo-learned": Recipe(
        loss=NPO(beta=0.099),
        importance=Learned(),
        train=Train(lr=2.6e-5, gamma=0.123, alpha=4.09),
        paper="2606.06320",
        source="as npo",
    ),
    "simnpo": Recipe(
        loss=SimNPO(beta=2.822, delta=0.093),
        train=Train(lr=2.08e-5, gamma=1.486, alpha=1.285),
        paper="2410.07163",
        source=SEARCH,
    ),
    "dpo": Recipe(
        loss=DPO(beta=0.21), train=Train(lr=2.27e-5, gamma=3.8, alpha=0.151), paper="2305.18290, 2404.05868", source=SEARCH
    ),
    "altpo": Recipe(loss=AltPO(beta=0.1), train=Train(), paper="2409.13474", source=PEER),
    "rmu": Recipe(
        loss=RMU(layer=7, coefficient=2.0),
        train=Train(lr=1e-5, retain="layer", only=r"layers\.[567]\.mlp\.down_proj"),
        paper="2403.03218",
        source=PEER,
    ),
    "undial": Recipe(
        loss=UNDIAL(beta=11.6), train=Train(lr=2.61e-5, gamma=0.157, alpha=0.626), paper="2402.10052", source=SEARCH
    ),
    "jensun": Recipe(
        loss=JensUn(), train=Train(lr=3.98e-5, gamma=0.817, alpha=0.794, retain="js"), paper="2509.02820", source=SEARCH
    ),
    "ceu": Recipe(loss=CEU(skip=1), paper="2503.01224", source=PEER),
    "pdu": Recipe(
        loss=PDU(), train=Train(alpha=50.0, bound=0.3, dual_step=5.0), paper="2506.05314", source="its TOFU script"
    ),
}
"""Methods by name: forget loss, importance, training settings, paper, and where the settings come from.

`RECIPES[name].run(model=…, forget=…, retain=…)` makes a `Run`.

Args:
    **settings: Fields of `Run`; they replace the recipe's own.

Returns:
    A run of this method, every field set.

Raises:
    ConfigError: Rows and suite are both missing or both given, a setting is out of range, or loss, importance and training
        cannot be combined.

Examples:
    >>> import deleatur
    >>> run = deleatur.RECIPES["npo"].run(model="tiny", forget="forget.jsonl", retain="retain.jsonl", seed=1)
    >>> run.loss.beta, run.seed
    (0.099, 1)
"""
