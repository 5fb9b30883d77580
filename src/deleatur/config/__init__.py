"""A run's settings in and out of YAML, and the named methods. Importing this does not import torch."""

from deleatur.config.run_config import Run

__all__ = ["Run"]
