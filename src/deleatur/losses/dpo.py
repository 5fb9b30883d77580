"""Prefer another answer to the forget answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from deleatur.errors import ConfigError, DataError
from deleatur.requirements import Requirements
from deleatur.settings import Range, require

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from deleatur.types import Example, Reference, TokenOutputs


@dataclass(frozen=True, kw_only=True, slots=True)
class DPO:
    """−(2/β)·Σ log σ(β·((l_w)ref − l_w − (l_f)ref + Σ w·l_f)): a refusal over the answer (2305.18290, as in 2404.05868).

    l_f and l_w are the NLLs of the answer to forget and of the refusal; w is the importance rescaled within each answer to
    sum to its length. At the reference each sequence gives (2/β)·log 2.

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        With the model still at the reference, each of the three sequences gives (2/β)·log 2.

        >>> from deleatur.losses import DPO
        >>> round(DPO(beta=0.1)(tokens, importance, reference).item(), 2)
        41.59
    """

    beta: float = 0.1
    """Inverse temperature, above 0."""
    refusals: str | None = None
    """File with one refusal a line; none takes the built-in ones."""

    unit: ClassVar[str] = "sequence"
    requires = Requirements(start_nll=True, preferred=True)
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(0.2, 0.5)}

    def __post_init__(self) -> None:
        require(self.beta > 0, "loss.beta", self.beta, "above 0")
        if self.refusals is not None:
            _read(self.refusals)

    def answers(self, example: Example) -> Sequence[str]:
        """The refusals, of which one is drawn at each meeting."""
        return REFUSALS if self.refusals is None else _read(self.refusals)

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        return _preference(tokens, importance, reference, self.beta)


@dataclass(frozen=True, kw_only=True, slots=True)
class AltPO:
    """DPO towards the row's own `alternates`: plausible other answers in place of a refusal (Mekala et al., 2409.13474).

    Raises:
        ConfigError: A setting is out of the range that its line gives.

    Examples:
        >>> from deleatur.losses import AltPO
        >>> AltPO().requires.inputs
        ('alternates in the forget rows',)
        >>> round(AltPO(beta=0.1)(tokens, importance, reference).item(), 2)
        41.59
    """

    beta: float = 0.1
    """Inverse temperature, above 0."""

    unit: ClassVar[str] = "sequence"
    requires = Requirements(start_nll=True, preferred=True, inputs=("alternates in the forget rows",))
    ranges: ClassVar[Mapping[str, Range]] = {"beta": Range(0.05, 0.2)}

    def __post_init__(self) -> None:
        require(self.beta > 0, "loss.beta", self.beta, "above 0")

    def answers(self, example: Example) -> Sequence[str]:
        """The row's alternates, of which one is drawn at each meeting. Raises DataError where it has none."""
        if not example.alternates:
            raise DataError(
                f"row {example.id} has no alternates; altpo needs at least one in every forget row, dpo does not"
            )
        return example.alternates

    def __call__(self, tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference) -> Float[Tensor, ""]:
        return _preference(tokens, importance, reference, self.beta)


def _preference(
    tokens: TokenOutputs, importance: Float[Tensor, " N"], reference: Reference, beta: float
) -> Float[Tensor, ""]:
    from torch.nn.functional import logsigmoid

    from deleatur.losses.reductions import per_sequence, require_output, weighted_nll

    instead = require_output(tokens.preferred)
    lose = weighted_nll(tokens, importance) - per_sequence(reference.nll(tokens), tokens)
    win = per_sequence(instead.nll - reference.nll(instead), instead)
    return -2 / beta * logsigmoid(beta * (lose - win)).sum()


@cache
def _read(path: str) -> tuple[str, ...]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"loss.refusals cannot be read from {path} ({e}); give a text file with one refusal a line") from e
    refusals = tuple(line.strip() for line in lines if line.strip())
    if not refusals:
        raise ConfigError(f"{path} holds no refusal; give a text file with one refusal a line")
    return refusals


REFUSALS = (
    "I don't know.",
    "I have no information about that.",
    "That is not something I can answer.",
    "I'm afraid I can't tell you.",
    "I am not aware of any details on this.",
    "This is beyond what I know.",
    "I have never heard of it, so I cannot say.",
    "There is nothing I can tell you about this.",
    "Sorry, I have no answer to this question.",
    "My knowledge does not cover that.",
    "I couldn't say.",
    "I do not have the facts needed to answer.",
    "I'm unable to help with this one.",
    "You would have to ask someone else about that.",
    "I don't recall anything of the kind.",
    "Unfortunately, this is unknown to me.",
)
