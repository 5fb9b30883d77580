"""A model's weights as llama.cpp's own tool rounds them, through a real GGUF file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.errors import ConfigError, ModelError
from deleatur.modeling.gguf import plan_gguf, write_gguf
from deleatur.modeling.loading import load

TOOL = "llama-quantize"


def check_tool() -> str:
    """The path of llama.cpp's tool. Raises ConfigError where it is not on the PATH."""
    path = shutil.which(TOOL)
    if path is None:
        raise ConfigError(f"Q4_K_M needs llama.cpp's {TOOL} on the PATH; install llama.cpp, or leave q4_k_m out")
    return path


def rounded_by_llama_cpp(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: str, place: Path | None = None
) -> dict[str, Tensor]:
    """The weights after a GGUF file of the model, made in a folder in `place`, was rounded to `kind`, such as Q4_K_M.

    llama.cpp takes another format for a matrix whose rows don't fill its blocks of 256. Raises ConfigError where the tool is
    missing, ModelError where the model has no place in GGUF, or the tool refuses it.
    """
    tool, plan = check_tool(), plan_gguf(model, tokenizer)
    with TemporaryDirectory(prefix="deleatur-", dir=place) as folder:
        whole, rounded = Path(folder, "whole.gguf"), Path(folder, "rounded.gguf")
        write_gguf(plan, model, tokenizer, whole)
        done = subprocess.run([tool, str(whole), str(rounded), kind], capture_output=True, text=True, errors="replace")
        if done.returncode or not rounded.exists():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise ModelError(f"{TOOL} did not round the model to {kind}: {said[-1] if said else done.returncode}")
        whole.unlink()
        return load(str(rounded))[0].state_dict()
