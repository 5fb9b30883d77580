"""Tensors that are written atomically, as safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from deleatur.errors import ConfigError
from deleatur.io.atomic import atomic_file


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Until the file is complete there is none of that name. Raises ConfigError where it cannot be written."""
    try:
        with atomic_file(path) as part:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    except (OSError, SafetensorError) as e:  # safetensors raises the latter on a full disk
        raise ConfigError(f"{path} cannot be written ({e}); free some space or give another folder") from e
