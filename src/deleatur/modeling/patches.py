"""Everything that is changed in torch or another library while this project runs, each change with its reason and versions.

Belongs here: whatever replaces a library's function, method, layer or attribute. Does not: what replaces them computes
(`low_memory_layers`, `attention_interface`), and when it is done (`decoder`, `loading`). A test looks for patches elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils import logging as transformers_logging

from deleatur.errors import ModelError
from deleatur.io.processor import is_intel

CHECKED = {
    "torch": "2.13.0",
    "transformers": "5.24.0",
    "peft": "0.21.2",
    "bitsandbytes": "0.50.2",
    "gguf": "0.19.0",
    "nltk": "3.10.4",
    "optuna": "5.0.0",
    "liger_kernel": None,
}
"""The newest version of each library with which the tests of its patches passed; None: with a stand-in only."""

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on CPU it warns of missing kernels that are not used
# DeepSpeed logs to stdout, from every process, and sets the level of its log itself
logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # DeepSpeed calls names that torch gives new ones
transformers_logging.disable_progress_bar()  # the terminal has progress bars of its own


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers logs nothing.

    Reason: a model is read again of which not all layers were written, and it would list them. Library: transformers.
    """
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def quiet_optuna() -> None:
    """optuna logs errors alone. Reason: it logs each trial on stderr, where the terminal has a bar. Library: optuna."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextlib.contextmanager
def no_pickle() -> Iterator[None]:
    """Inside, `torch.load` raises a ModelError, whichever library calls it.

    Reason: an index of safetensors may name pickled files, and unpickling can run code. Libraries: torch, transformers.
    """

    def refuse(*args: object, **kwargs: object) -> None:
        """Stands in for `torch.load`."""
        raise ModelError("pickled weights can run code when read, and are not read; save them as safetensors first")

    load, torch.load = torch.load, refuse
    try:
        yield
    finally:
        torch.load = load


@contextlib.contextmanager
def no_kernels() -> Iterator[None]:
    """Inside, `import kernels` fails.

    Reason: bitsandbytes, which peft imports, downloads compiled code from the hub when that package is installed.
    Libraries: bitsandbytes, peft.
    """
    had = sys.modules.pop("kernels", None)
    sys.modules["kernels"] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        del sys.modules["kernels"]
        if had is not None:
            sys.modules["kernels"] = had


@contextlib.contextmanager
def gguf_read_once() -> Iterator[None]:
    """Inside, each GGUF file is read once, and each family's table of tensor names made once, however often asked for.

    Reason: configuration, tokenizer, weights and checks each read the whole vocabulary, and every module has the table made
    anew: 20 s for a small model in place of 5. Libraries: gguf, which transformers imports where it needs it.
    """
    if find_spec("gguf") is None:
        yield
        return
    import gguf

    read, table = gguf.GGUFReader, gguf.get_tensor_name_map
    once = cache(read)

    def open_file(path: Any, mode: Any = "r") -> Any:
        """The reader of a file, made once for each path."""
        return once(os.path.realpath(path)) if mode == "r" else read(path, mode)

    gguf.GGUFReader = open_file  # pyright: ignore[reportAttributeAccessIssue]
    gguf.get_tensor_name_map = cache(table)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = read, table


@contextlib.contextmanager
def stemmer_alone() -> Iterator[None]:
    """Inside, `nltk.stem.porter` is imported without the rest of `import nltk`.

    Reason: rouge-score needs the stemmer, and the rest takes a second. Asked for more, its nltk is whole. Library: nltk.
    """
    spec = find_spec("nltk") if "nltk" not in sys.modules else None
    if spec is None:
        yield
        return
    top, stem = ModuleType("nltk"), ModuleType("nltk.stem")
    top.__path__ = [*(spec.submodule_search_locations or ())]
    stem.__path__ = [f"{place}/stem" for place in top.__path__]

    def full(name: str) -> Any:
        """An attribute of the whole nltk, which is imported now."""
        if (module := import_module("nltk")) is top:
            raise AttributeError(name)
        return getattr(module, name)

    vars(top)["__getattr__"] = full
    sys.modules["nltk"], sys.modules["nltk.stem"] = top, stem
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "nltk"]:
            del sys.modules[name]


def disable_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Every dropout rate of a model set to 0. In place.

    Reason: the model that is trained and its start model must be the same function. Library: transformers, whose
    attentions hold the rate as a plain number.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model


def drop_quantisation_marks(model: PreTrainedModel) -> PreTrainedModel:
    """Remove the attributes that say that the weights were quantised. In place.

    Reason: transformers dequantises a GGUF file and merged 4-bit layers, but then refuses to save the plain weights.
    Library: transformers.
    """
    vars(model.config).pop("quantization_config", None)
    for mark in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit"):
        vars(model).pop(mark, None)
    return model


def drop_added_tokens(tokenizer: Any, size: int) -> None:
    """Take the added tokens with ids from `size` on out of a tokenizer. In place.

    Reason: transformers adds <|endoftext|> to a GGUF file's byte-level vocabulary that has none, and has no way to remove
    a token. Library: transformers, whose tokenizer holds the one that works as `_tokenizer`.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = [token for token in parts["added_tokens"] if token["id"] < size]
    if len(kept) < len(parts["added_tokens"]):
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(parts | {"added_tokens": kept}))


def set_tied(model: Any, tied: bool) -> None:
    """Say in a model's settings whether embedding and head are one weight. In place.

    Reason: after adapters of one of them are merged they are two; saved as tied, one is lost. Libraries: peft, transformers.
    """
    model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = tied


def plain_cpu_layers(model: Any) -> None:
    """Let 4-bit layers compute on a processor as they do elsewhere. In place.

    Reason: the form that they have for AVX512-BF16 has no backward pass. Library: bitsandbytes.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def replace_forward(module: torch.nn.Module, forward: Callable[..., Any], *, state_alone: bool = True) -> None:
    """Call `forward(module, x)` for one layer, with `state_alone` only where it is called with nothing else. In place.

    Reason: its own forward keeps more for the backward pass, or its result is known. Libraries: transformers, peft.
    """
    module.forward = partial(_forward, forward, state_alone, module)


def restore_forwards(model: torch.nn.Module, *, inner: bool = True) -> None:
    """A model, or with `inner` every layer of it, as it was before `replace_forward`. In place."""
    for module in model.modules() if inner else (model,):
        forward = vars(module).get("forward")
        if isinstance(forward, partial) and forward.func is _forward:
            del module.forward


def _forward(forward: Callable, state_alone: bool, module: torch.nn.Module, x: Any, *more: Any, **named: Any) -> Any:
    return type(module).forward(module, x, *more, **named) if state_alone and (more or named) else forward(module, x)


def register_attention(name: str, attend: Callable[..., Any], mask: Callable[..., Any]) -> None:
    """Make an attention and its mask known under a name of their own.

    Reason: rows in one sequence need an attention that keeps them apart. Library: transformers, by its own interface.
    """
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, mask)


def set_attention(model: PreTrainedModel, name: str | None) -> None:
    """Let a model attend through the implementation of this name. In place.

    Reason: transformers' own `set_attn_implementation` also changes submodules, and may fetch kernels from the hub.
    """
    model.config._attn_implementation = name


def fuse(model: PreTrainedModel, undo: contextlib.ExitStack) -> bool:
    """Let Liger's kernels compute this one model's norms and gated layers until `undo` is closed; False where they can't.

    Reason: they are faster on a GPU. Rotary positions and the loss stay transformers': Liger replaces those for all
    models of a family. Library: liger_kernel, tested with a stand-in.
    """
    if find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import monkey_patch as liger  # pyright: ignore[reportMissingImports]

    if model.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    family = vars(sys.modules[type(model).__module__])
    names = dict(family)
    for module in model.modules():
        undo.callback(vars(module).update, dict(vars(module)))
        undo.callback(vars(module).clear)  # first, since the last comes first
    try:
        liger._apply_liger_kernel_to_instance(model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    finally:
        family.update(names)
    return True


@contextlib.contextmanager
def matmul_precision_restored() -> Iterator[None]:
    """torch's precision of fp32 products is afterwards what it was. Reason: `deleatur.forget` runs in a user's process."""
    was = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(was)


def exact_matmul() -> None:
    """On CPU let fp32 products go through oneDNN where that is as exact; elsewhere leave torch as it is.

    Reason: "medium" is twice as fast where it keeps fp32's exactness (elsewhere it means bf16), but not on Intel's.
    """
    if torch.cuda.is_available() or is_intel():
        return
    a, b = torch.randn(2, 128, 512, generator=torch.Generator().manual_seed(0))
    truth = a.double() @ b.double().t()
    torch.set_float32_matmul_precision("medium")
    if float((a @ b.t() - truth).norm() / truth.norm()) > 1e-5:
        torch.set_float32_matmul_precision("highest")
