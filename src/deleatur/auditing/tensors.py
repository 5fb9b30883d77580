"""Tensors that arms hand on to each other, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from deleatur.io.atomic import flush


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """As safetensors, written atomically."""
    part = path.with_name(f"{path.name}.part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
    flush(part)
    part.replace(path)
