"""A model as one GGUF file, for the families whose weights and tokenizer have a known place there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deleatur.errors import ModelError
from deleatur.io.packages import check_package

# transformers' name of a family → GGUF's, and whether rows of queries and keys are kept in pairs there
FAMILIES = {"llama": ("llama", True), "mistral": ("llama", True), "qwen2": ("qwen2", False), "qwen3": ("qwen3", False)}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
SPLITS = {  # GGUF's name of a way to cut text into words → the regular expression, by which tokenizer.json has it
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's kinds of token


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be written: everything is checked by then."""

    arch: str
    tensors: tuple[tuple[str, str], ...]  # our name, GGUF's
    paired: bool
    words: str  # how text is cut into words
    vocabulary: dict[str, Any]  # tokenizer.json's model


def plan_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Plan:
    """How the model goes into a GGUF file.

    Raises ConfigError without the package gguf, ModelError where the family, its positions or its tokenizer have no place.
    """
    gguf, config = _gguf(), model.config
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"a {config.model_type} model cannot be written as GGUF, only {', '.join(FAMILIES)}; leave --gguf out, and "
            "turn the exported folder into GGUF with llama.cpp's convert_hf_to_gguf.py"
        )
    rope = config.rope_parameters or {}
    arch, paired = FAMILIES[config.model_type]
    odd = {  # what transformers does not read back from a file
        "scaled positions": rope.get("rope_type", "default") != "default",
        "a sliding window": getattr(config, "sliding_window", None) is not None,
        "biases": paired and any(name.endswith(".bias") for name in model.state_dict()),
        "heads of another width than 128": config.model_type == "qwen3" and config.head_dim != 128,
    }
    if found := [name for name, is_there in odd.items() if is_there]:
        raise ModelError(f"a {config.model_type} model with {found[0]} cannot be written as GGUF; leave --gguf out")
    number = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    tensors = {name: names.get_name(name, (".weight", ".bias")) for name in model.state_dict()}
    tensors = {name: there for name, there in tensors.items() if not (tied and there == "output.weight")}
    if missing := [name for name, there in tensors.items() if there is None]:
        raise ModelError(f"{missing[0]} has no place in a GGUF file of the family {arch}; leave --gguf out")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {} if backend is None else json.loads(backend.to_str())
    words = _words(parts.get("pre_tokenizer"))
    if parts.get("model", {}).get("type") != "BPE" or words is None:
        raise ModelError("only byte-level BPE tokenizers of a known kind can be written as GGUF; leave --gguf out")
    return Plan(arch=arch, tensors=tuple(tensors.items()), paired=paired, words=words, vocabulary=parts["model"])


def check_all_read(path: Path) -> None:
    """Refuse a file with scaled positions, which transformers reads past: the model would be another one."""
    reader = _gguf("a .gguf model").GGUFReader(path)
    found = [t.name for t in reader.tensors if t.name.startswith("rope_")]
    arch = str(reader.fields["general.architecture"].contents())
    scaling = {n: f.contents() for n, f in reader.fields.items() if n.startswith(f"{arch}.rope.scal")}
    found += [n for n, v in scaling.items() if n.endswith(".type") and v != "none"]
    found += [n for n, v in scaling.items() if n.endswith(("factor", "scale_linear")) and v not in (0, 1)]
    if found and arch != "gpt-oss":  # of which transformers reads them
        raise ModelError(
            f"{path} scales positions ({found[0]}), which is not read from GGUF files: it would be another model; give the "
            "safetensors it was made of"
        )


def check_same_settings(path: Path, config: Any) -> None:
    """Refuse a file with a setting that the model made of it has not, since no loader reads it for the family."""
    fields = _gguf("a .gguf model").GGUFReader(path).fields
    arch = str(fields["general.architecture"].contents())
    rope = getattr(config, "rope_parameters", None) or {}
    made = {"attention.sliding_window": getattr(config, "sliding_window", None), "rope.freq_base": rope.get("rope_theta")}
    made |= {name: getattr(config, name, None) for name in ("attn_logit_softcapping", "final_logit_softcapping")}
    room = getattr(config, "max_position_embeddings", None) or math.inf
    for name, expected in made.items():
        field = fields.get(f"{arch}.{name}")
        found_value = None if field is None else field.contents()
        if not isinstance(found_value, int | float) or found_value == 0 or (name.endswith("window") and found_value >= room):
            continue  # not there, or without effect
        if (expected is None and name == "rope.freq_base") or (
            expected is not None and math.isclose(expected, found_value, rel_tol=1e-5)
        ):
            continue
        raise ModelError(
            f"{path} has {arch}.{name} {found_value:g}, and is read with {expected}: it would be another model; give the "
            "safetensors it was made of"
        )


def write_gguf(
    plan: Plan, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, licence: str | None = None
) -> None:
    """Write the file, one tensor at a time: matrices in the model's own precision (fp32 or bf16), vectors in fp32."""
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, plan.arch)
    half = model.dtype == torch.bfloat16
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_BF16 if half else gguf.LlamaFileType.ALL_F32))
    if licence:
        writer.add_license(licence)
    _describe(writer, model.config)
    embedding: Any = model.get_input_embeddings()
    _add_tokenizer(writer, plan, tokenizer, embedding.num_embeddings)
    state = model.state_dict()
    for name, there in plan.tensors:
        kind = gguf.GGMLQuantizationType.BF16 if half and state[name].ndim > 1 else gguf.GGMLQuantizationType.F32
        size = state[name].numel() * (2 if kind == gguf.GGMLQuantizationType.BF16 else 4)
        writer.add_tensor_info(there, state[name].shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, there in plan.tensors:
        value = _laid_out(there, state[name].detach().cpu(), model.config) if plan.paired else state[name].detach().cpu()
        bits = value.view(torch.int16) if half and value.ndim > 1 else value.float()
        writer.write_tensor_data(bits.contiguous().numpy())
    writer.close()


def _gguf(what: str = "--gguf") -> Any:
    check_package("gguf", what)
    return import_module("gguf")


def _laid_out(there: str, value: Tensor, config: Any) -> Tensor:
    """Queries and keys with the two halves of each head's rows in turns, as GGUF's llama rotates positions."""
    heads = {".attn_q.": config.num_attention_heads, ".attn_k.": config.num_key_value_heads}
    count = next((n for part, n in heads.items() if part in there), None)
    if count is None:
        return value
    return value.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2)


def _describe(writer: Any, config: Any) -> None:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _words(pre: dict[str, Any] | None) -> str | None:
    """GGUF's name of the way in which a tokenizer.json cuts text into words; None where it has none."""
    steps = (pre or {}).get("pretokenizers", [pre or {}])
    last = {k: steps[-1].get(k) for k in BYTES}
    if len(steps) == 1 and last == BYTES | {"use_regex": True}:
        return "gpt-2"
    if len(steps) != 2:
        return None
    if steps[0] == {"type": "Digits", "individual_digits": True} and last == BYTES | {"use_regex": True}:
        return "smollm"
    split = steps[0].get("pattern", {}).get("Regex")
    return next((name for name, known in SPLITS.items() if known == split and last == BYTES), None)


def _add_tokenizer(writer: Any, plan: Plan, tokenizer: Any, size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(plan.words)
    tokens, kinds = zip(*_tokens(tokenizer, size), strict=True)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = plan.vocabulary["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    for name in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    around = tokenizer("").input_ids
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and around[:1] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and around[1:] == [tokenizer.eos_token_id])
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(tokenizer: Any, size: int) -> Iterator[tuple[str, int]]:
    """Every row of the embedding as a token and its kind; rows that no token has get a name of their own."""
    named, added = {number: token for token, number in tokenizer.get_vocab().items()}, tokenizer.added_tokens_decoder
    for number in range(size):
        kind = NORMAL if number not in added else CONTROL if added[number].special else USER_DEFINED
        yield (named[number], kind) if number in named else (f"[PAD{number}]", UNUSED)
