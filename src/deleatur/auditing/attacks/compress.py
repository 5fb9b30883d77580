"""Weights rounded to the formats in which models are served, or pruned by magnitude."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deleatur.auditing.arms import Arm
from deleatur.auditing.attacks.table import Attack, Findings, both_forms, one_by_one
from deleatur.auditing.finetuning import restore_weights
from deleatur.auditing.settings import K_QUANT
from deleatur.modeling.llama_cpp import rounded_by_llama_cpp
from deleatur.modeling.token_model import TokenModel

# the 16 levels of NF4 (2305.14314): quantiles of a normal distribution, scaled to [-1, 1], with an exact 0
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def int8(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """Rounded to 8 bits by output row, scaled by its largest magnitude (as 2208.07339 without its outlier columns)."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round().clamp(-127, 127) * scale


def nf4(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """Rounded to NF4 by blocks of 64, scaled by their largest magnitude (2305.14314, scales in full precision)."""
    blocks, size = _blocks(weight, 64)
    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-12)
    middles = (levels[1:] + levels[:-1]) / 2
    return _unblocked(levels[torch.bucketize(blocks / scale, middles)] * scale, size, weight)


def q4_0(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    """Rounded to GGUF's Q4_0: blocks of 32, the entry of largest magnitude at −8, the scale in half precision."""
    blocks, size = _blocks(weight, 32)
    largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = largest / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    steps = (blocks * inverse + 8.5).trunc().clamp(0, 15) - 8
    return _unblocked(steps * scale.half().to(weight.dtype), size, weight)


def pruned(share: float) -> Callable[[Float[Tensor, "O I"]], Float[Tensor, "O I"]]:
    """The smallest weights of a matrix set to 0, by magnitude."""

    def prune(weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """The matrix with its smallest entries at 0."""
        count = int(share * weight.numel())
        if not count:
            return weight
        limit = weight.abs().flatten().kthvalue(count).values
        return torch.where(weight.abs() <= limit, torch.zeros_like(weight), weight)

    return prune


def _blocks(weight: Float[Tensor, "O I"], size: int) -> tuple[Float[Tensor, "blocks size"], int]:
    """Neighbours along the rows, all matrix end to end; the last block is filled up with zeros."""
    flat = weight.flatten()
    return nn.functional.pad(flat, (0, -len(flat) % size)).view(-1, size), len(flat)


def _unblocked(blocks: Float[Tensor, "blocks size"], size: int, like: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
    return blocks.flatten()[:size].view_as(like).to(like.dtype)


ROUND: dict[str, Callable[[Float[Tensor, "O I"]], Float[Tensor, "O I"]]] = {
    "int8": int8,
    "nf4": nf4,
    "q4_0": q4_0,
    "prune10": pruned(0.1),
    "prune30": pruned(0.3),
    "prune50": pruned(0.5),
}


@torch.no_grad()
def compress(model: TokenModel, to: str) -> None:
    """Every matrix but embeddings and head, in place; those of fused experts one by one."""
    spared = {id(p) for m in model.lm.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    head = model.lm.get_output_embeddings()
    spared |= {id(p) for p in head.parameters()} if head is not None else set()
    transposed = {id(m.weight) for m in model.lm.modules() if isinstance(m, Conv1D)}  # GPT-2's
    for weight in model.lm.parameters():
        if weight.dim() < 2 or id(weight) in spared:
            continue
        for matrix in weight.flatten(0, -3) if weight.dim() > 2 else (weight,):
            turned = matrix.T.contiguous() if id(weight) in transposed else matrix
            rounded = ROUND[to](turned)
            matrix.copy_(rounded.T if id(weight) in transposed else rounded)


@torch.no_grad()
def compress_by_file(arm: Arm, kind: str) -> None:
    """Every weight as a GGUF file of the model has it after llama.cpp rounded it, in place."""
    weights = rounded_by_llama_cpp(arm.model.lm, arm.encoder.tokenizer, kind, arm.folder)
    for name, weight in arm.model.lm.named_parameters():
        weight.copy_(weights[name])


def run(arm: Arm, setting: str) -> Findings:
    """The model evaluated with its weights in another format."""
    with restore_weights(arm.model):
        if setting == K_QUANT:
            compress_by_file(arm, setting.upper())
        else:
            compress(arm.model, setting)
        return both_forms(arm)


COMPRESS = Attack(
    asks="Plain questions and cloze after the weights were rounded (int8; NF4 in blocks of 64; Q4_0 in blocks of 32; Q4_K_M "
    "by llama.cpp) or the smallest 10, 30 and 50 % of each matrix set to 0.",
    source="2410.16454",
    settings=lambda s: s.formats,
    run=one_by_one(run),
    exposes=True,
)
