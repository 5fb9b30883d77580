"""A run's settings in and out of YAML (`run_config`), and the methods by name (`recipes`).

Belongs elsewhere: settings of a part (`settings`, `losses`, `importance`). Importing this does not import torch.
"""

from deleatur.config.run_config import Run

__all__ = ["Run"]
