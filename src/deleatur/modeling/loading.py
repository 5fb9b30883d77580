"""All contact with transformers and peft: load, adapt, save."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from deleatur.distributed.processes import full_weights, gathered, is_first, will_shard
from deleatur.errors import ConfigError, DeleaturError, ModelError, why
from deleatur.io.packages import check_package
from deleatur.modeling.adapters import Adapter, adapted_layers, apply_adapter, find_adapter, looks_local
from deleatur.modeling.gguf import check_all_read, check_same_settings
from deleatur.modeling.lora_targets import lora_targets
from deleatur.modeling.model_files import (
    NEEDS_CODE,
    check_all_used,
    check_family,
    check_generation,
    check_hub,
    check_is_model,
    check_tokenizer_files,
    check_weight_files,
    needs_code,
    read_config,
    remedy,
)
from deleatur.modeling.patches import (
    disable_dropout,
    drop_added_tokens,
    drop_quantisation_marks,
    gguf_read_once,
    no_kernels,
    no_pickle,
    plain_cpu_layers,
)
from deleatur.modeling.quantised import plain_weights
from deleatur.settings import Lora, Precision

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load(
    name: str, *, precision: Precision = "fp32", bits: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, from the hub by name, a folder, or a .gguf file.

    With 4 `bits` the linear layers but the head are held in NF4, for adapters to be trained on. They differ from what was
    read, and it is them that merge_adapters makes plain again. Raises ConfigError where NF4 can't be had.

    Pickled weights and a model's own code are never read, since both can do anything; a family that transformers knows is
    read by transformers' code, whatever its folder holds. Raises ModelError with the reason where either cannot be had.
    """
    adapter = find_adapter(name)
    packed = {} if bits is None else _nf4(name, adapter is not None)
    if adapter is None:
        with gguf_read_once() if name.endswith(".gguf") else contextlib.nullcontext():
            tokenizer = load_tokenizer(name)
            return _load_model(name, tokenizer, precision, packed), tokenizer
    tokenizer = load_tokenizer(name)
    with _base_of(name, adapter):
        base = _load_model(adapter.base, tokenizer, precision, packed, revision=adapter.revision)
    return disable_dropout(apply_adapter(base, adapter)), tokenizer


@contextlib.contextmanager
def _base_of(name: str, adapter: Adapter) -> Iterator[None]:
    """What goes wrong meanwhile is said of the adapter and its base."""
    try:
        yield
    except ModelError as e:
        reason = str(e).rpartition(f"{adapter.base}: ")[2].partition(";")[0].rstrip(".")
        raise ModelError(
            f"the adapter {name} was trained on {adapter.base}, which cannot be loaded ({reason}); get that model, and "
            f"where it has moved write its place as base_model_name_or_path in {adapter.folder / 'adapter_config.json'}"
        ) from e


def _load_model(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    precision: Precision,
    packed: dict[str, Any],
    revision: dict[str, str] | None = None,
) -> PreTrainedModel:
    where = _where(name) | (revision or {})
    options = {"dtype": DTYPES[precision], "output_loading_info": True, "use_safetensors": True} | packed
    options["ignore_mismatched_sizes"] = True  # they are refused below, in a sentence that names them
    try:
        with no_pickle():
            config = None if name.endswith(".gguf") else read_config(where, name)
            if config is None:
                check_all_read(Path(name))
            else:
                check_family(config, name)
                check_weight_files(name)
            options |= plain_weights(config, name, packed=bool(packed))
            made: Any = AutoModelForCausalLM.from_pretrained(**where, **options)
        model, info = made
        if name.endswith(".gguf"):
            check_same_settings(Path(name), model.config)
        if not packed and str(getattr(model, "quantization_method", "")).endswith("BITS_AND_BYTES"):
            model.dequantize()
        _fix_generation(model, name)
    except DeleaturError:
        raise
    except Exception as e:  # a harmed file makes the libraries behind it raise anything
        check_generation(where, name)
        check_hub(name)
        raise ModelError(f"cannot load the model {name}: {why(e)}; {remedy(name)}") from e
    check_all_used(model, info, name)
    if name.endswith(".gguf"):
        drop_added_tokens(tokenizer, model.get_input_embeddings().num_embeddings)
    vars(model.config).pop("auto_map", None)  # of our own copy: a saved model must not name code that was never run
    plain_cpu_layers(model)
    return disable_dropout(model if packed else drop_quantisation_marks(model))


def _fix_generation(model: PreTrainedModel, name: str) -> None:
    """Some models come with settings of sampling and without do_sample, which transformers reads and does not save.

    Our own copy's settings are corrected, as a user would in the file.
    """
    config, reason = model.generation_config, ""
    if isinstance(config.pad_token_id, int) and config.pad_token_id < 0:  # pyright: ignore # how old models say: none
        config.pad_token_id = None  # pyright: ignore
    for _ in range(2):
        try:
            return config.validate(strict=True)  # pyright: ignore
        except ValueError as e:
            reason, config.do_sample = why(e), True  # pyright: ignore
    raise ModelError(f"the generation_config.json of {name} cannot be saved ({reason}); correct it or leave it out")


def _nf4(name: str, is_adapter: bool) -> dict[str, Any]:
    check_package("bitsandbytes", "lora.bits 4")
    if will_shard():
        raise ConfigError("lora.bits 4 goes with neither FSDP2 nor ZeRO-3; leave one out (both shard bf16 weights as well)")
    if name.endswith(".gguf") or is_adapter:
        raise ConfigError(f"lora.bits 4 needs plain safetensors, which {name} is not; load and save it as such first")
    from transformers import BitsAndBytesConfig

    with no_kernels():
        import bitsandbytes  # noqa: F401 # pyright: ignore[reportMissingImports]

    how = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **how)}


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer alone: an adapter's own where its folder has one. Raises ModelError where there is none."""
    adapter = find_adapter(name)
    if adapter is not None and adapter.tokenizer == adapter.base:
        with _base_of(name, adapter):
            return _load_tokenizer(adapter.base, adapter.revision)
    return _load_tokenizer(name if adapter is None else adapter.tokenizer, {})


def check_files(name: str) -> None:
    """Raise ModelError for what is wrong with a model, or an adapter and its base, and shows without loading it."""
    load_tokenizer(name)
    adapter = find_adapter(name)
    check_weight_files(name if adapter is None else adapter.base)


def _load_tokenizer(name: str, revision: dict[str, str]) -> PreTrainedTokenizerBase:
    where = _where(name) | revision
    check_tokenizer_files(name)
    if (Path(name) / "config.json").exists():  # the tokenizer's class hangs on it
        read_config(where, name)
    try:
        with _alone(where) as place:
            tokenizer = AutoTokenizer.from_pretrained(**place)
        tokenizer("?")  # some faults show only at work
        return tokenizer
    except Exception as e:  # as above
        reason = NEEDS_CODE if needs_code(name) else f"{why(e)}; {remedy(name)}"
        raise ModelError(f"cannot load the tokenizer of {name}: {reason}") from e


@contextlib.contextmanager
def _alone(where: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A .gguf file without its neighbours: of a tokenizer.json beside it transformers would take the words alone, and leave
    out the special tokens and the chat template that the file itself has."""
    file = Path(where["pretrained_model_name_or_path"]) / where.get("gguf_file", "")
    if file.suffix != ".gguf" or not file.with_name("tokenizer.json").exists():
        yield where
        return
    with TemporaryDirectory() as folder:
        (Path(folder) / file.name).symlink_to(file.resolve())
        yield where | {"pretrained_model_name_or_path": folder}


def _where(name: str) -> dict[str, Any]:
    path = Path(name)
    if looks_local(name) and not path.exists():
        raise ModelError(f"no model at {name}; give a folder, a .gguf file, or a name on the hub")
    place = {"pretrained_model_name_or_path": name}
    if path.suffix == ".gguf":
        place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    else:
        check_is_model(path)
    return place | {"trust_remote_code": False}  # left out, transformers would prompt at the terminal


def add_adapters(model: PreTrainedModel, settings: Lora) -> PreTrainedModel:
    """The model with low-rank adapters on all linear layers but the head, and on experts that are one tensor together.

    Only they are trained. In place.
    """
    targets = lora_targets(model)
    # within another module PEFT doesn't see the family, for some of which it has targets and refusals of its own
    holder = torch.nn.ModuleDict({"lm": model})
    layers, experts = ([f"lm.{name}" for name in names] for names in (targets.layers, targets.experts))
    inject_adapters(holder, settings, layers=layers, experts=experts)
    return model


def inject_adapters(holder: torch.nn.Module, settings: Lora, *, layers: list[str], experts: list[str]) -> None:
    """Put adapters on these layers and parameters. In place."""
    check_package("peft", "--lora.rank")
    with no_kernels():
        from peft import LoraConfig, inject_adapter_in_model

    targets = {"target_modules": layers, "target_parameters": experts or None}
    inject_adapter_in_model(LoraConfig(r=settings.rank or 0, lora_alpha=settings.alpha, **targets), holder)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Make activations again in the backward pass instead of keeping them. In place."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable  # its old name
    enable({"use_reentrant": False, "determinism_check": "none"})  # DeepSpeed empties frozen weights before such a check


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Model and tokenizer as safetensors; adapters are merged first. Every process has to call it, the first writes."""
    weights = full_weights(merge_adapters(model))
    if is_first():
        model.save_pretrained(folder, state_dict=weights)
        tokenizer.save_pretrained(folder)


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Adapters added into the weights they adapt, and taken off. In place; a plain model without adapters stays as it is.

    What is in NF4 is plain afterwards, in the type it was read in: rounded to 4 bits again, the sum would be another model
    than the one that was trained, and can have back what was forgotten.
    """
    merge_layers(model)
    for name, layer in packed_layers(model).items():
        _replace(model, name, plain_layer(layer))
    return drop_quantisation_marks(model)


def packed_layers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The layers that are held in NF4, by their names."""
    return {name: m for name, m in model.named_modules() if hasattr(getattr(m, "weight", None), "quant_state")}


def _replace(holder: torch.nn.Module, name: str, layer: torch.nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(holder.get_submodule(parent), child, layer)


def merge_layers(holder: torch.nn.Module) -> None:
    """Every adapter within a module merged and taken off. In place."""
    for name, module in adapted_layers(holder).items():
        base: Any = module.get_base_layer()
        if hasattr(getattr(base, "weight", None), "quant_state"):
            base = plain_layer(base, module.get_delta_weight("default"))  # pyright: ignore
        else:
            with gathered(module):
                module.merge()
        if not name.endswith(".base_layer"):  # those of one module lie around each other
            _replace(holder, name, base)


def plain_layer(packed: Any, delta: Float[Tensor, "O I"] | None = None) -> torch.nn.Linear | Conv1D:
    """A linear layer in NF4 as one of its own type, with `delta` added to its weight."""
    from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

    weight = dequantize_4bit(packed.weight.data, packed.weight.quant_state)
    weight = weight if delta is None else (weight.float() + delta.float()).to(weight.dtype)
    with torch.device("meta"):
        turned = packed.source_cls is Conv1D  # GPT-2's layer, which holds its matrix transposed
        made = Conv1D(*weight.shape) if turned else torch.nn.Linear(*weight.T.shape, bias=False)
    made.weight = torch.nn.Parameter(weight.T.contiguous() if turned else weight, requires_grad=False)
    made.bias = packed.bias
    return made
