"""Checkpoints that are published with quantised weights: made plain when loaded, or refused."""

from __future__ import annotations

from typing import Any

from transformers import FineGrainedFP8Config, GgufConfig, PreTrainedConfig
from transformers.utils.quantization_config import Mxfp4Config

from deleatur.errors import ConfigError, ModelError
from deleatur.io.packages import check_package
from deleatur.modeling.model_files import UNNAMED

FORMATS: dict[str, Any] = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}  # which transformers makes plain on request


def plain_weights(config: PreTrainedConfig | None, name: str, *, packed: bool) -> dict[str, Any]:
    """Options that make the weights of a checkpoint plain as they are read, where they are not; `packed` if NF4 is wanted.

    `config` is None for a GGUF file.
    Raises ConfigError where NF4 can't be had of them, ModelError where they can't be trained.
    """
    if config is None:
        return {"quantization_config": GgufConfig(dequantize=True)}  # packed weights could not be trained
    given = getattr(config, "quantization_config", None) or getattr(config.get_text_config(), "quantization_config", None)
    if given is None:
        return {}
    kind = _kind(given)
    if kind is None:
        raise ModelError(f"the config.json of {name} {UNNAMED}")
    if packed:
        raise ConfigError(
            f"lora.bits 4 needs plain weights, but those of {name} are quantised ({kind}); leave lora.bits out"
        )
    if kind in FORMATS:
        return {"quantization_config": FORMATS[kind](dequantize=True)}
    if not kind.startswith("bitsandbytes"):
        raise ModelError(f"the weights of {name} are quantised ({kind}), and cannot be trained; give the model they are of")
    check_package("bitsandbytes", name)
    return {}


def _kind(given: Any) -> str | None:
    """The method; bitsandbytes is known by its flags as well. None where none is named."""
    named = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
    if named is None and isinstance(given, dict) and (given.get("load_in_4bit") or given.get("load_in_8bit")):
        return "bitsandbytes"
    return None if named is None else str(getattr(named, "value", named))
