"""What a GPU offers beyond torch's own: attention that keeps rows apart by their positions, and Liger's fused layers."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available, is_torch_flex_attn_available

from deleatur.modeling.packed_attention import OWN, PREFIX


def by_positions(lm: PreTrainedModel) -> list[str]:
    """Attentions of that kind that this model and machine have, best first; what somebody chose stays, and may be one."""
    own = str(lm.config._attn_implementation).removeprefix(PREFIX)
    if own not in OWN:
        return [own]
    flash = lm._supports_flash_attn and lm.dtype == torch.bfloat16 and is_flash_attn_2_available()
    flex = lm._supports_flex_attn and is_torch_flex_attn_available()
    return ["flash_attention_2"] * flash + ["flex_attention"] * flex


def fuse(lm: PreTrainedModel, undo: ExitStack) -> bool:
    """Let Liger's kernels stand in for the norms and gated layers of this one model, until `undo` is closed.

    False where liger_kernel is not installed or does not know the family. The head and its loss stay ours, and rotary
    positions the model's: Liger changes those for all models of a family, also for one that lies on the CPU.
    """
    if find_spec("liger_kernel") is None:
        return False
    from liger_kernel.transformers import monkey_patch as liger  # pyright: ignore[reportMissingImports]

    if lm.config.model_type not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        return False
    family = vars(sys.modules[type(lm).__module__])
    names = dict(family)
    for module in lm.modules():
        undo.callback(_put_back, module, dict(vars(module)))
    try:
        liger._apply_liger_kernel_to_instance(lm, rope=False, cross_entropy=False, fused_linear_cross_entropy=False)
    finally:
        family.update(names)
    return True


def _put_back(module: nn.Module, had: dict[str, Any]) -> None:
    vars(module).clear()
    vars(module).update(had)
