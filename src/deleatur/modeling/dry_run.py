"""What is done with a model after the last step, tried before the first: adapters merged, all saved and read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy, deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from deleatur.distributed.processes import agree, fingerprints, full_weights
from deleatur.errors import DeleaturError, ModelError, why
from deleatur.modeling.gguf import plan_gguf
from deleatur.modeling.loading import inject_adapters, load_tokenizer, merge_layers, packed_layers, plain_layer
from deleatur.modeling.lora_targets import lora_targets
from deleatur.modeling.patches import drop_quantisation_marks, quiet_transformers
from deleatur.settings import Lora

TEXT = "Where was Nojul born? In 1972,\n in Teburg, é 家."


def try_ending(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, lora: Lora, name: str) -> None:
    """What is done with the model after the last step, tried on small parts of it; nothing is saved without a tokenizer."""
    failed: list[DeleaturError] = []

    def attempt() -> str | None:
        """Why merging or saving fails in this process; None where both work."""
        try:
            if lora.rank is not None:
                try_merging(model, lora, name)
            if tokenizer is not None:
                try_saving(model, tokenizer, name)
        except DeleaturError as e:
            failed.append(e)
            return str(e)
        return None

    if reason := agree(attempt):  # the first process alone saves, and all of them end where it cannot
        raise failed[0] if failed else ModelError(reason)


def try_saving(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Save the settings, the tokenizer and a layer of each kind, and read them again; nothing is left of it. What is held in
    NF4 is made plain, as it will be saved.

    Raises ModelError where that fails, or another tokenizer or class comes back.
    """
    with TemporaryDirectory() as folder:
        try:
            back, lost = _back(model, tokenizer, Path(folder))
            again = load_tokenizer(folder)
        except DeleaturError as e:
            raise ModelError(f"saved, {name} cannot be read again: {e}") from e
        except Exception as e:  # each family and library has reasons of its own
            reason = why(e)
            raise ModelError(f"{name} cannot be saved and read again as it is ({reason}); save it otherwise first") from e
    if lost or type(back) is not type(model):
        seen = f"without its weight {lost[0]}" if lost else f"as a {type(back).__name__}"
        raise ModelError(f"saved, {name} would be read again {seen}; use the transformers that it was made for")
    if (again(TEXT)["input_ids"], again.chat_template) != (tokenizer(TEXT)["input_ids"], tokenizer.chat_template):
        raise ModelError(
            f"saved, the tokenizer of {name} would be read again as another one ({type(again).__name__}, which tokenizes "
            "differently); save it as a class of its own family first"
        )


def _back(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[Any, list[str]]:
    """The model that is read again, its weights nowhere, and which of those written it lacks."""
    saved, weights = _as_saved(model)
    saved.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    with quiet_transformers():  # about the layers that were not written
        made: Any = AutoModelForCausalLM.from_pretrained(
            folder, device_map="meta", trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        back, info = made
    return back, sorted({*info["missing_keys"]} & weights.keys())


def _as_saved(model: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """The model and the weights of a layer of each kind; where some are in NF4, as `merge_adapters` leaves them."""
    kept, packed = _layer_of_each_kind(model), packed_layers(model)
    weights = {name: w for name, w in model.state_dict().items() if name.startswith(kept) and not _is_in(name, packed)}
    if not packed:
        return model, weights
    for name, layer in packed.items():
        if name.startswith(kept):
            weights |= {f"{name}.{own}": p.detach() for own, p in plain_layer(layer).named_parameters()}
    model = copy(model)  # a second name for the same layers, with settings of its own
    model.config = deepcopy(model.config)
    return drop_quantisation_marks(model), weights


def _is_in(name: str, layers: Iterable[str]) -> bool:
    return any(name.startswith(f"{layer}.") for layer in layers)


def gathering_trial(model: PreTrainedModel, name: str) -> Callable[[], None]:
    """To be made before the weights are shared out over processes; called afterwards, by all of them, it gathers a layer of
    each kind as saving does. Raises ModelError there where other weights come back than were shared out."""
    kept = _layer_of_each_kind(model)
    weights = {key: w for key, w in model.state_dict().items() if key.startswith(kept)}
    known = dict(zip(weights, fingerprints(weights.values()), strict=True))

    def gather() -> None:
        """Gather a layer of each kind and compare it with what was there before."""
        came = full_weights(model, kept)
        found = {key.replace(".base_layer", ""): w for key, w in (came or {}).items()}  # below adapters
        lost = [key for key in known if key not in found or fingerprints([found[key]]) != [known[key]]]
        if first := agree(lambda: lost[:1]):
            raise ModelError(f"gathered from all processes, {first[0]} of {name} is another weight; run it on one process")

    return gather


def _layer_of_each_kind(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of parameter names: of the layers whose names and shapes no layer before them has."""
    kinds: dict[Any, str] = {}
    for name, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList):
            for index, layer in enumerate(layers):
                kind = (name, *((n, tuple(p.shape)) for n, p in layer.named_parameters()))
                kinds.setdefault(kind, f"{name}.{index}.")
    return tuple(kinds.values())


def gguf_notes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> list[str]:
    """A sentence where a model that came as GGUF cannot be exported as GGUF again, so that it is known before training."""
    if not name.endswith(".gguf"):
        return []
    try:
        plan_gguf(model, tokenizer)
    except DeleaturError as e:
        return [f"The result can be saved, but not exported as GGUF as {name} is: {str(e).partition(';')[0]}"]
    return []


@torch.no_grad()
def try_merging(model: PreTrainedModel, lora: Lora, name: str) -> None:
    """Put adapters on a copy of a layer of each kind, and merge them. Raises ModelError where that fails."""
    targets = lora_targets(model)
    if not (targets.layers or targets.experts):
        raise ModelError(f"{name} has no linear layer for adapters; leave lora.rank out")
    layers = {_kind(module := model.get_submodule(name)): module for name in targets.layers}
    holders = [n.rpartition(".") for n in targets.experts]
    experts = {(type(m := model.get_submodule(parent)), own): (m, own) for parent, _, own in holders}
    for module, own in [*((m, None) for m in layers.values()), *experts.values()]:
        try:
            _merge_copy(module, own, lora)
        except Exception as e:
            kind = type(module).__name__ if own is None else f"{type(module).__name__}.{own}"
            raise ModelError(f"adapters on {kind} of {name} cannot be merged ({why(e)}); leave lora.rank out") from e


def _kind(layer: nn.Module) -> tuple[type, torch.dtype]:
    return type(layer), next(layer.parameters()).dtype


def _merge_copy(module: nn.Module, own: str | None, lora: Lora) -> None:
    """Merge random adapters on a copy; raises ValueError where its weight is unchanged or not finite."""
    holder = nn.ModuleDict({"it": deepcopy(module)})
    inject_adapters(holder, lora, layers=["it"] if own is None else [], experts=[] if own is None else [f"it.{own}"])
    for key, p in holder.named_parameters():
        if "lora_B" in key:
            nn.init.normal_(p, std=0.1)
    merge_layers(holder)
    was, now = (_weight(m, own or "weight") for m in (module, holder["it"]))
    if not bool(now.isfinite().all()) or (was.shape == now.shape and torch.equal(was, now)):
        raise ValueError("the weight does not change")


def _weight(module: nn.Module, name: str) -> Tensor:
    return module.get_parameter(name).detach()
