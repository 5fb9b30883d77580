"""What files and libraries must not do while a model is read: unpickle, load code; and what they say when it fails."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on CPU it misses kernels that are not used
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@contextlib.contextmanager
def no_kernels() -> Iterator[None]:
    """bitsandbytes, which peft brings with it, takes compiled code from the hub when it is imported, if it finds a way."""
    had = sys.modules.pop("kernels", None)
    sys.modules["kernels"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if had is not None:
            sys.modules["kernels"] = had


@contextlib.contextmanager
def no_pickle() -> Iterator[None]:
    """torch.load refuses meanwhile, whichever library calls it: an index of safetensors may name other files."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("pickled weights")

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load


def why(e: BaseException, name: str) -> str:
    """The reason in a line; what is refused for safety is said in our own words."""
    if "trust_remote_code" in str(e):
        return (
            "it needs code that comes with it, which is never run from here; read that code, load the model yourself "
            "with trust_remote_code, and give it to deleatur.forget in Python"
        )
    inside = sorted(Path(name).iterdir()) if Path(name).is_dir() else []
    pickled = [p.name for p in inside if p.suffix in PICKLED and not any(q.suffix == ".safetensors" for q in inside)]
    if "pickled" in str(e) or ("safetensors" in str(e) and (pickled or not inside)):
        seen = f" ({pickled[0]})" if pickled else ""
        return f"its weights are pickled{seen}, which can run code when read; save them as safetensors first"
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    if lines[1:] and lines[0].endswith(":"):
        return " ".join(lines[:2])
    return lines[0] if lines else type(e).__name__
