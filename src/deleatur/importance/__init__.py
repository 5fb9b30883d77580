"""How much each token matters: one value per scored token, fixed, or learned by `atwu`.

A new importance is a file here and a row in `IMPORTANCES`. Belongs elsewhere: how tokens are pushed away (`losses`).
Importing this does not import torch.
"""

from deleatur.importance.confidence import WGA, SatImp
from deleatur.importance.contrast import Contrast
from deleatur.importance.entropy import ETW
from deleatur.importance.learned import Learned
from deleatur.importance.masks import SEUL, SULLM, Spans, SUNgram, TokenUnlearn
from deleatur.importance.novelty import Novelty
from deleatur.importance.uniform import Uniform

__all__ = [
    "ETW",
    "IMPORTANCES",
    "SEUL",
    "SULLM",
    "WGA",
    "AnyImportance",
    "Contrast",
    "Learned",
    "Novelty",
    "SUNgram",
    "SatImp",
    "Spans",
    "TokenUnlearn",
    "Uniform",
]
IMPORTANCES: dict[str, type] = {
    "uniform": Uniform,
    "wga": WGA,
    "satimp": SatImp,
    "etw": ETW,
    "tokenunlearn": TokenUnlearn,
    "seul": SEUL,
    "su-llm": SULLM,
    "su-ngram": SUNgram,
    "contrast": Contrast,
    "novelty": Novelty,
    "spans": Spans,
    "learned": Learned,
}
"""Importances by name; each is a frozen dataclass of settings.

An instance is called as `importance(tokens)`, or `prepare(start)` makes the callable before training. `Learned` holds the
settings of the scorer, which `deleatur.importance.atwu.LearnedImportance` trains.

Args:
    tokens: Outputs of the model for the N scored tokens of forget rows, with what `requires` names.

Returns:
    One number per scored token, (N,), 0 or more, without gradient.

Raises:
    ConfigError: A setting is out of range (when the instance is made).

Examples:
    >>> import deleatur
    >>> importance = deleatur.IMPORTANCES["wga"](beta=1.0)
    >>> importance(tokens).shape == tokens.nll.shape
    True
"""
AnyImportance = Uniform | WGA | SatImp | ETW | TokenUnlearn | SEUL | SULLM | SUNgram | Contrast | Novelty | Spans | Learned
