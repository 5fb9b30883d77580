"""Why a model could not be loaded, in a sentence. Decided by what its files hold, never by the text of an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import list_repo_files
from transformers import AutoConfig
from transformers.dynamic_module_utils import resolve_trust_remote_code
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from deleatur.errors import PickledWeights

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def describe_load_failure(e: BaseException, where: dict[str, Any]) -> str:
    """The reason why `AutoModelForCausalLM.from_pretrained(**where)` raised `e`: what its files show, else `e` itself."""
    if isinstance(e, PickledWeights):
        return _pickled("")
    try:
        config = AutoConfig.from_pretrained(**where)
    except Exception:  # then `e` is about the configuration as well
        return describe(e)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not _needs_code(e):
        return (
            f"a {type(config).__name__.removesuffix('Config')} is no causal language model in transformers, as those with "
            "an encoder or of images are not; give a language model, such as the one inside of it, saved alone"
        )
    files = [] if "gguf_file" in where else _files(where)
    if not any(file.endswith(".safetensors") for file in files):
        for file in files:
            if file.endswith(PICKLED):
                return _pickled(f" ({file})")
    return describe(e)


def describe(e: BaseException) -> str:
    """An error of a library in one line; where a model needs code of its own, what to do."""
    if _needs_code(e):
        return (
            "it needs code that comes with it, which is never run from here; read that code, load the model yourself "
            "with trust_remote_code, and give it to deleatur.forget in Python"
        )
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    if lines[1:] and lines[0].endswith(":"):
        return " ".join(lines[:2])
    return lines[0] if lines else type(e).__name__


def _needs_code(e: BaseException) -> bool:
    """Did transformers raise this where it decides whether a model's own code may run?"""
    step = e.__traceback__
    while step is not None:
        if step.tb_frame.f_code is resolve_trust_remote_code.__code__:
            return True
        step = step.tb_next
    return False


def _files(where: dict[str, Any]) -> list[str]:
    """The names of a model's files, in a folder or on the hub; none where they can't be listed."""
    name = where["pretrained_model_name_or_path"]
    try:
        if Path(name).is_dir():
            return sorted(path.name for path in Path(name).iterdir())
        return sorted(list_repo_files(name, revision=where.get("revision")))
    except Exception:  # without network: the first error says enough
        return []


def _pickled(seen: str) -> str:
    return f"its weights are pickled{seen}, which can run code when read; save them as safetensors first"
