"""The files of a model, looked at before a library reads them: what is wrong is said of the file, and with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig, PreTrainedConfig
from transformers import __version__ as transformers_version

from deleatur.data.messages import show_all
from deleatur.errors import ModelError, why

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ON_HUB = ("pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZER_SETTINGS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
VOCABULARIES = ("tokenizer.json", "tekken.json", "*.model", "vocab*", "merges.txt", "*.tiktoken")
LFS = b"version https://git-lfs"
NEEDS_CODE = (
    "it needs code that comes with it, which is never run from here; read that code, load the model yourself "
    "with trust_remote_code, and give it to deleatur.forget in Python"
)
PICKLED_WEIGHTS = "its weights are pickled ({}), which can run code when read; save them as safetensors first"
UNNAMED = (
    "has a quantization_config without a quant_method, so its weights cannot be read; give the model that they are of, "
    "or, where they are plain, take quantization_config out of config.json"
)


def remedy(name: str) -> str:
    """What to do about a model that cannot be read for a reason that only a library knows."""
    if Path(name).exists():
        return "correct its files, or get them again from where the model came"
    return "check the name and the network, or give a folder"


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError where it is none."""
    check_no_pointer(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ModelError(f"{file} cannot be read ({why(e)}); get it again from where the model came") from e
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds no JSON object, with a name for each value; get it again from where the model came")
    return found


def check_no_pointer(file: Path) -> None:
    """Raise ModelError for what a clone without Git LFS has in a file's place."""
    with file.open("rb") as opened:
        if opened.read(len(LFS)) == LFS:
            raise ModelError(f"{file} is a pointer of Git LFS in place of the file; run git lfs pull in its folder")


def read_config(where: dict[str, Any], name: str) -> PreTrainedConfig:
    """The settings of a causal language model. Raises ModelError where they can't be used."""
    folder = Path(name)
    if folder.is_dir():
        _check_settings(folder)
    try:
        settings = PreTrainedConfig.get_config_dict(**where)[0]
        family = settings.get("model_type")
        unknown = isinstance(family, str) and family not in CONFIG_MAPPING
        own_code = "AutoConfig" in (settings.get("auto_map") or {})
        config = None if unknown else AutoConfig.from_pretrained(**where)
    except Exception as e:
        raise ModelError(f"the config.json of {name} cannot be used: {why(e)}; {remedy(name)}") from e
    if config is None:
        raise ModelError(
            f"cannot load the model {name}: {NEEDS_CODE}"
            if own_code
            else f"the config.json of {name} has the model_type {family!r}, which transformers {transformers_version} does "
            "not know; correct it, or use a newer transformers"
        )
    return config


def check_family(config: PreTrainedConfig, name: str) -> None:
    """Raise ModelError where transformers has no causal language model for the settings."""
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        raise ModelError(f"cannot load the model {name}: {NEEDS_CODE}")
    raise ModelError(
        f"cannot load the model {name}: a {type(config).__name__.removesuffix('Config')} is no causal language model in "
        "transformers, as those with an encoder or of images are not; give a language model, such as the one inside of it, "
        "saved alone"
    )


def _check_settings(folder: Path) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no config.json, which says what the model is; give the folder that has it")
    settings = read_object(file)
    if not isinstance(settings.get("model_type"), str):
        raise ModelError(f"the config.json of {folder} names no model_type; take the file that belongs to the model")
    for part in (settings, settings.get("text_config") or {}):
        if not isinstance(part, dict):
            raise ModelError(f"the text_config in the config.json of {folder} is no JSON object; correct it")
        if not isinstance(part.get("quantization_config"), dict | None):
            raise ModelError(f"the config.json of {folder} {UNNAMED}")
    if (generation := folder / "generation_config.json").is_file():
        _check_ids(read_object(generation), folder)


def _check_ids(settings: dict[str, Any], folder: Path) -> None:
    """Raise ModelError where a special token of the generation settings is not given by its number."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given = settings.get(name)
        ids = given if isinstance(given, list) and name == "eos_token_id" else [given]
        if not all(i is None or (isinstance(i, int) and not isinstance(i, bool)) for i in ids):
            raise ModelError(
                f"the generation_config.json of {folder} cannot be used ({name} is {given!r}); correct it or leave it out"
            )


def check_generation(where: dict[str, Any], name: str) -> None:
    """Raise ModelError where it is the settings of generation that a model cannot be loaded with."""
    try:
        GenerationConfig.from_pretrained(where["pretrained_model_name_or_path"])
    except OSError:  # there are none
        return
    except Exception as e:
        raise ModelError(
            f"the generation_config.json of {name} cannot be used ({why(e)}); correct it or leave it out"
        ) from e


def check_is_model(folder: Path) -> None:
    """Raise ModelError for a file, and for a folder that holds no model itself, but folders or .gguf files that are some."""
    if folder.is_file():
        raise ModelError(f"{folder} is one file; give a folder with safetensors, a .gguf file, or a name on the hub")
    named = ("config.json", "adapter_config.json")
    if not folder.is_dir() or any((folder / file).is_file() for file in named):
        return
    below = {file.parent for depth in ("*", "*/*") for own in named for file in folder.glob(f"{depth}/{own}")}
    if found := sorted(below | {*folder.glob("*.gguf")}):
        inside = [path.relative_to(folder).as_posix() for path in found]
        raise ModelError(f"{folder} is no model; give what is in it: {show_all(inside, ' or ')}")


def check_tokenizer_files(name: str) -> None:
    """Raise ModelError where a folder has no tokenizer, or files of one that can't be read."""
    folder = Path(name)
    if not folder.is_dir():
        return
    for file in (folder / f for f in TOKENIZER_SETTINGS):
        if file.is_file():
            read_object(file)
    if not any(any(folder.glob(pattern)) for pattern in VOCABULARIES):
        raise ModelError(f"{name} has no tokenizer.json; copy the tokenizer's files from the model that it is of")


def needs_code(name: str) -> bool:
    """Does the tokenizer in a folder name a class of its own?"""
    file = Path(name) / "tokenizer_config.json"
    given = read_object(file).get("auto_map") if file.is_file() else None
    return bool(given)


def check_weight_files(name: str) -> None:
    """Raise ModelError where a folder lacks weights as safetensors, or some of their files are incomplete or damaged."""
    folder = Path(name)
    if not folder.is_dir():
        return
    for file in _weight_files(folder):
        if not file.is_file():
            raise ModelError(f"{name} lacks {file.relative_to(folder)}, which its {INDEX} names; get that file again")
        check_no_pointer(file)
        try:
            with safe_open(str(file), "pt"):
                pass
        except SafetensorError as e:
            raise ModelError(f"{file} is incomplete or damaged ({why(e)}); get it again from where the model came") from e


def check_hub(name: str) -> None:
    """Raise ModelError where a model on the hub has pickled weights alone."""
    if Path(name).exists():
        return
    from huggingface_hub import file_exists

    try:
        has = [file for file in (WEIGHTS, INDEX, *ON_HUB) if file_exists(name, file)]
    except Exception:  # without network, or no such name: loading has said why
        return
    if has and has[0] in ON_HUB:
        raise ModelError(f"cannot load the model {name}: {PICKLED_WEIGHTS.format(has[0])}")


def _weight_files(folder: Path) -> Iterator[Path]:
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    if not (folder / INDEX).is_file():
        seen = sorted(p.name for p in folder.iterdir() if p.is_file())
        if pickled := [n for n in seen if n.endswith(PICKLED)]:
            raise ModelError(f"cannot load the model {folder}: {PICKLED_WEIGHTS.format(pickled[0])}")
        others = [n for n in seen if n.endswith(".safetensors")]
        has = f"; it has {others[0]}, which may be the file under another name" if others else ""
        raise ModelError(f"{folder} has no {WEIGHTS} and no {INDEX}, so no weights{has}; get the files of the weights")
    index = read_object(folder / INDEX)
    shards = index.get("weight_map")
    names = shards.values() if isinstance(shards, dict) else ()
    if not names or not all(isinstance(n, str) for n in names) or not isinstance(index.get("metadata"), dict):
        raise ModelError(f"{folder / INDEX} does not say which weight is in which file; get it again")
    for shard in sorted({str(n) for n in names}):
        if not shard.endswith(".safetensors"):
            raise ModelError(f"{folder / INDEX} names {shard}, which is no safetensors file; save the weights as such first")
        yield folder / shard


def check_all_used(model: nn.Module, info: dict[str, Any], name: str) -> None:
    """Raise ModelError where weights were not in the files, of another shape, or those of a layer that the model lacks.

    `info` is what transformers says of the loading. It would fill in what is missing at random, and drop the rest.
    """
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"the model {name} lacks {len(missing)} of its weights, {missing[0]} first; get the complete model")
    if other := sorted((key, tuple(has), tuple(wants)) for key, has, wants in info["mismatched_keys"]):
        key, has, wants = other[0]
        raise ModelError(
            f"the weight {key} of {name} is of shape {has} in the file and {wants} by its config.json; take the config.json "
            "that belongs to the weights"
        )
    for place, layers in model.named_modules():
        if isinstance(layers, nn.ModuleList) and (left := _layers_left(info["unexpected_keys"], place, layers)):
            raise ModelError(
                f"the files of {name} have {len(left)} more layers ({place}.{min(left)} first) than the {len(layers)} of "
                "its config.json; take the config.json that belongs to the weights"
            )
    if left_out := sorted(_parts_left(model, info["unexpected_keys"])):
        raise ModelError(
            f"the files of {name} hold {left_out[0]}, which a {type(model).__name__} of its config.json does without, so it "
            "would be another model; take the config.json that belongs to the weights, and of quantised weights the model "
            "they are of"
        )


def _parts_left(model: nn.Module, unexpected: Iterable[str]) -> Iterator[str]:
    """Of the weights that were left out those of a part that the model has: a layer's bias, the scale of its weight, an
    adapter on it, a norm in a block. Heads and towers beside the model, and tables that it makes itself, are none."""
    modules = dict(model.named_modules())
    holders = {name for name, module in modules.items() if next(module.parameters(recurse=False), None) is not None}
    blocks = {
        f"{name}.{index}"
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList)
        for index in module._modules
    }
    for key in unexpected:
        above = {key[:end] for end, c in enumerate(key) if c == "."}
        parent, _, kind = key.rpartition(".")
        is_layer = kind in ("weight", "bias") and parent not in modules and not above.isdisjoint(blocks)
        if is_layer or (not above.isdisjoint(holders) and kind != "inv_freq"):
            yield key


def _layers_left(unexpected: Any, name: str, layers: nn.ModuleList) -> set[int]:
    """The layers behind the model's own that the files have, of the same weights as one of it.

    Those for predicting more than one token at once, which some families have there, have others and are no part of it.
    """
    found: dict[int, set[str]] = {}
    for key in unexpected:
        index, _, rest = key.removeprefix(f"{name}.").partition(".")
        if key.startswith(f"{name}.") and index.isdecimal() and int(index) >= len(layers):
            found.setdefault(int(index), set()).add(rest)
    kinds = [{n for n, _ in layer.named_parameters()} for layer in layers]
    return {index for index, weights in found.items() if not kinds or weights in kinds}
