"""Make a language model forget exactly what it must, and nothing else."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deleatur.commands.unlearn import forget

__version__ = "0.1.0"
__all__ = ["__version__", "forget"]


def __getattr__(name: str) -> object:
    if name == "forget":  # on first use, since it brings torch
        from deleatur.commands.unlearn import forget

        return forget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
