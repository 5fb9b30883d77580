"""Adapters that come with a model: found, put on the base that they name, and merged, so that nothing of PEFT is left."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from deleatur.errors import ModelError, why
from deleatur.modeling.model_files import check_no_pointer, read_object
from deleatur.modeling.patches import no_kernels, no_pickle, set_tied

WEIGHTS = "adapter_model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "chat_template.jinja")
FILES = ("adapter_*.json", "*.safetensors", "*.jinja", "*token*", "vocab*", "merges.txt", "chat_template*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A folder with an adapter, the model that it was trained on, and where its tokenizer is: there, or with the base."""

    folder: Path
    base: str
    tokenizer: str
    revision: dict[str, str] = field(default_factory=dict)  # of the base


def looks_local(name: str) -> bool:
    """Is this a path and not a hub name (`owner/model`)?"""
    return name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1


def find_adapter(name: str) -> Adapter | None:
    """The adapter in a folder or on the hub; None where this is a model. Raises ModelError where it can't be used."""
    folder = _folder_of(name)
    if folder is None:
        return None
    where = folder / "adapter_config.json"
    config = read_object(where)
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise ModelError(f"{where} names no base_model_name_or_path; give the model it was trained on there")
    if not Path(base).is_absolute() and not Path(base).exists() and (folder / base).is_dir():
        base = str(folder / base)
    if _folder_of(base) is not None:
        raise ModelError(f"{where} names an adapter as its base; merge the two first")
    if config.get("megatron_config"):  # peft would import whatever module it names
        raise ModelError(f"{where} needs code outside of peft (megatron_config); take that out")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; pickled weights (.bin) can run code and are not read")
    check_no_pointer(folder / WEIGHTS)
    own = any((folder / file).is_file() for file in TOKENIZERS)
    revision = config.get("revision")
    fixed = {"revision": revision} if isinstance(revision, str) and not Path(base).exists() else {}
    return Adapter(folder=folder, base=base, tokenizer=str(folder) if own else base, revision=fixed)


def _folder_of(name: str) -> Path | None:
    """The folder with the adapter's files, from the hub where it is a name there; None where there is no adapter."""
    path = Path(name)
    if path.exists() or looks_local(name) or not name:
        return path if (path / "adapter_config.json").is_file() else None
    from huggingface_hub import snapshot_download
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(name)
        return None if found is None else Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception:  # without network, or no such name: loading says why
        return None


def apply_adapter(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """The base with the adapter merged into it. In place. Raises ModelError where the adapter is not for this base."""
    with no_kernels():
        from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    try:
        _resize(model, adapter.folder / WEIGHTS)
        with no_pickle():
            adapted = PeftModel.from_pretrained(model, str(adapter.folder))  # pyright: ignore
        left: Any = set_peft_model_state_dict(adapted, load_file(adapter.folder / WEIGHTS))
    except Exception as e:  # a harmed file makes the libraries behind it raise anything
        raise ModelError(
            f"cannot put the adapter {adapter.folder} onto {adapter.base}: {why(e)}; get the adapter's files again, or name "
            "the model it was trained on in adapter_config.json"
        ) from e
    _check_weights(adapted)
    copies = (".modules_to_save.", ".original_module.")  # peft writes a layer that is trained whole three times
    own = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    lacking = [key for key in left.missing_keys if key.replace(".default", "") in own]
    if lacking:  # peft would leave them at their random start
        raise ModelError(f"the adapter {adapter.folder} lacks its weight {lacking[0]}; get the adapter's files again")
    if unknown := [key for key in left.unexpected_keys if not any(copy in key for copy in copies)]:
        raise ModelError(
            f"the adapter {adapter.folder} holds {unknown[0]}, for which {adapter.base} has no place; name the "
            "model it was trained on in adapter_config.json"
        )
    return merged(adapted)


def _resize(model: PreTrainedModel, weights: Path) -> None:
    """As many rows of the embedding as the adapter was trained with, where it holds the embedding. In place."""
    embedding: Any = model.get_input_embeddings()
    name = next(n for n, m in model.named_modules() if m is embedding)
    with safe_open(str(weights), "pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys() if f"{name}.weight" in key]  # noqa: SIM118
        if any(rows[0] != embedding.num_embeddings for rows in shapes):
            model.resize_token_embeddings(shapes[0][0], mean_resizing=False)


def _check_weights(adapted: Any) -> None:
    if any(getattr(c, "is_prompt_learning", False) for c in adapted.peft_config.values()):
        raise ModelError(
            "the adapter is a learned prompt, which cannot be merged into weights; give a LoRA, or the model alone"
        )


@torch.no_grad()
def merged(adapted: Any) -> PreTrainedModel:
    """A PeftModel as a plain model that computes the same, every weight of it to be trained. In place.

    Where embedding and head are one weight and only one of them is adapted, they are two afterwards. Raises ModelError for
    what can't be merged: a learned prompt is not part of the weights.
    """
    _check_weights(adapted)
    was, model = adapted.training, adapted.get_base_model()
    off = any(layer.disable_adapters for layer in adapted_layers(model).values())
    adapted.eval()
    head = model.get_output_embeddings()
    ids = (torch.arange(2, 8, device=adapted.device) * head.weight.shape[0] // 10)[None]
    truth = adapted(input_ids=ids, use_cache=False).logits.float()
    _untie(model)
    try:
        plain = adapted.unload() if off else adapted.merge_and_unload()
    except Exception as e:
        raise ModelError(
            f"the adapter cannot be merged ({why(e)}); give the model alone, or an adapter of another kind"
        ) from e
    own = plain.get_input_embeddings().weight is plain.get_output_embeddings().weight
    set_tied(plain, own)
    error = float((plain(input_ids=ids, use_cache=False).logits.float() - truth).norm() / truth.norm())
    if not error < (1e-3 if plain.dtype == torch.float32 else 1e-1):
        raise ModelError(
            f"merged, the adapter computes something else (logits differ by {error:.1g} of their size); give the model "
            "alone, or an adapter of another kind"
        )
    _open(plain)
    plain.train(was)
    return plain


def _untie(model: Any) -> None:
    """A weight of its own for the head, where the embedding is the same weight and one of the two is adapted."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    bases = [end.get_base_layer() if hasattr(end, "get_base_layer") else end for end in ends]
    bases = [base.original_module if hasattr(base, "original_module") else base for base in bases]
    if bases[0].weight is bases[1].weight and bases != ends:
        bases[1].weight = torch.nn.Parameter(bases[1].weight.clone(), requires_grad=False)


def adapted_layers(holder: torch.nn.Module) -> dict[str, Any]:
    """The layers within a module that hold adapters, by their names."""
    named = holder.named_modules()
    return {name: layer for name, layer in named if _is_from("peft.tuners.tuners_utils", "BaseTunerLayer", layer)}


def _is_from(module: str, kind: str, value: object) -> bool:
    """Is the object of this class? A class whose module nobody has imported has none, and importing peft takes seconds."""
    found = getattr(sys.modules.get(module), kind, None)
    return found is not None and isinstance(value, found)


def plain_model(model: Any) -> PreTrainedModel:
    """A model from Python without adapters: those of a PeftModel are merged. Raises ModelError for another kind of object.

    Where no weight takes gradients, as after PEFT's merge_and_unload, every weight does from now on.
    """
    wrapped = _is_from("peft", "PeftModel", model)
    inner = model.get_base_model() if wrapped else model
    if getattr(inner, "is_quantized", False):
        raise ModelError("the weights of the model are quantised, and cannot be trained; call its dequantize() first")
    if wrapped:
        model = merged(model)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"the model is a {type(model).__name__}; give the PreTrainedModel or PeftModel itself, without a wrapper"
        )
    if adapted_layers(model):
        raise ModelError("the model has adapters inside; give it as a PeftModel, or merge them first")
    if any(p.is_meta for p in model.parameters()):  # as device_map leaves what it puts on disk
        raise ModelError("some weights of the model are not in memory; load it without device_map, or with one GPU for all")
    if not any(p.requires_grad for p in model.parameters()):
        _open(model)
    return model


def _open(model: torch.nn.Module) -> None:
    for p in model.parameters():
        p.requires_grad_(p.is_floating_point())
