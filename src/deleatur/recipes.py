"""Named methods with the settings to start from, as plain values."""

from dataclasses import dataclass, field
from typing import Any

from deleatur.config import Run
from deleatur.importance import WGA, AnyImportance, Learned, Uniform
from deleatur.losses import NPO, AnyForgetLoss, GradientDifference
from deleatur.settings import Train, require


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A pair of forget loss and importance, how it is trained, and where the settings come from."""

    loss: AnyForgetLoss
    importance: AnyImportance
    train: Train = field(default_factory=Train)
    source: str

    def run(self, **settings: Any) -> Run:
        """A run of this method; `settings` are the run's other fields, and replace the recipe's own."""
        return Run(**({"loss": self.loss, "importance": self.importance, "train": self.train} | settings))


TUNED = Train(lr=5e-5, gamma=3.0)  # found on the made-up world, docs/log.md; every recipe is given the same

RECIPES: dict[str, Recipe] = {
    "atwu": Recipe(
        loss=GradientDifference(saturation=5.0), importance=Learned(), train=TUNED, source="2606.06320; tuned in docs/log.md"
    ),
    "wga": Recipe(loss=GradientDifference(), importance=WGA(beta=5.0), train=TUNED, source="2502.19301; as atwu"),
    "graddiff": Recipe(loss=GradientDifference(), importance=Uniform(), train=TUNED, source="2203.12817; as atwu"),
    "npo": Recipe(loss=NPO(), importance=Uniform(), train=TUNED, source="2404.05868; as atwu"),
    "npo-learned": Recipe(loss=NPO(), importance=Learned(), train=TUNED, source="2606.06320, other losses; as atwu"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Demo:
    """Tell a model of made-up people, then make it forget some of them."""

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    """Name on the hub, folder, or .gguf file of the model that is told."""
    out: str = "runs/demo"
    """Folder of the run; a finished run in it is shown again."""
    cache: str = "models"
    """Folder in which the model that was told is kept for the next time."""
    recipe: str = "atwu"
    """The method, see `deleatur recipes`."""
    people: int = 20
    """People in the world, more than are forgotten."""
    forgotten: int = 2
    """People to forget, at least 1."""
    seed: int = 0
    """Makes the world and orders the rows."""
    told_epochs: int = 5
    """Passes over the world's rows when the model is told, at least 1."""
    reference: bool = False
    """Also tell a model everything but the forgotten people, and show how it answers."""

    def __post_init__(self) -> None:
        require(self.forgotten >= 1, "forgotten", self.forgotten, "1 or more")
        require(self.people > self.forgotten, "people", self.people, f"more than are forgotten ({self.forgotten})")
        require(self.told_epochs >= 1, "told_epochs", self.told_epochs, "1 or more")
