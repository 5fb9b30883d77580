"""Make a language model forget exactly what it must, and nothing else.

The names in `__all__` are the public Python interface (docs/python.md). Each is imported on first use, so that importing
this does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.commands.audit import audit
    from deleatur.commands.evaluation import evaluate
    from deleatur.commands.unlearn import forget
    from deleatur.config.recipes import RECIPES
    from deleatur.evaluation.metrics import METRICS
    from deleatur.importance import IMPORTANCES
    from deleatur.losses import FORGET_LOSSES
    from deleatur.modeling.token_model import TokenModel

__version__ = "0.2.0.dev0"
__all__ = [
    "FORGET_LOSSES",
    "IMPORTANCES",
    "METRICS",
    "RECIPES",
    "TokenModel",
    "__version__",
    "audit",
    "evaluate",
    "forget",
]

MODULES = {
    "FORGET_LOSSES": "deleatur.losses",
    "IMPORTANCES": "deleatur.importance",
    "METRICS": "deleatur.evaluation.metrics",
    "RECIPES": "deleatur.config.recipes",
    "TokenModel": "deleatur.modeling.token_model",
    "audit": "deleatur.commands.audit",
    "evaluate": "deleatur.commands.evaluation",
    "forget": "deleatur.commands.unlearn",
}


def __getattr__(name: str) -> object:
    if name in MODULES:
        return getattr(import_module(MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
