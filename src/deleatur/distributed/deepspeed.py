"""DeepSpeed's ZeRO-3: all contact with it. Imported only where needed; its own checkpoints, pickles, are never made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, device, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.optim import Optimizer


def is_partitioned(x: Tensor) -> bool:
    """Is this a weight that ZeRO-3 partitioned?"""
    return hasattr(x, "ds_tensor")


def shard_model(model: Any, where: device) -> None:
    """Leave this process its share of every weight, and hooks that bring a layer's together while it runs. In place."""
    import deepspeed

    config = _config(model)
    deepspeed.zero.Init(module=model, config_dict_or_path=config)
    for weight in model.lm.get_output_embeddings().parameters():
        deepspeed.zero.register_external_parameter(model.readout, weight)
    for buffer in model.buffers():
        buffer.data = buffer.data.to(where)
    vars(model)["engine"] = deepspeed.initialize(model=model, config=config)[0]  # past nn.Module: the engine is one too


def train(model: Any, optimizer: Optimizer, clip: float) -> Any:
    """The engine that runs the model, goes backward and steps, in place of the one that only runs it."""
    import deepspeed

    model.engine.destroy()
    config = _config(model) | {"gradient_clipping": clip}
    vars(model)["engine"] = made = deepspeed.initialize(model=model, optimizer=optimizer, config=config)[0]
    return made


def _config(model: nn.Module) -> dict[str, Any]:
    """What the launcher says of ZeRO; all else is the run's to say."""
    import torch
    from accelerate.utils import DeepSpeedPlugin

    return {
        "zero_optimization": DeepSpeedPlugin().deepspeed_config["zero_optimization"],
        "zero_force_ds_cpu_optimizer": False,  # AdamW is torch's, also where it is offloaded
        "bf16": {"enabled": next(model.parameters()).dtype == torch.bfloat16},
        "train_micro_batch_size_per_gpu": 1,  # required, but unused here
        "managed_gradient_accumulation": False,  # a step is where `step` is called
    }


def gathered(weights: Sequence[Tensor]) -> AbstractContextManager[object]:
    """Gathered inside; the first process's changes are broadcast afterwards."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(weights), modifier_rank=0)


def part(weight: Any, index: int) -> Tensor:
    """This process's share, without what fills up the last one; a view, flat."""
    return weight.ds_tensor[: _length(weight, index)]


def _length(weight: Any, index: int) -> int:
    share = weight.ds_tensor.numel()
    return max(0, min(share, weight.ds_numel - index * share))


def repartition(weight: Any) -> None:
    """Its share was written to: the next use gathers it again."""
    if is_partitioned(weight):
        weight.partition()


def make_moments(engine: Any, optimizer: Optimizer, names: Iterable[str]) -> None:
    """What AdamW makes at its first step, before it."""
    import torch

    for flat in engine.optimizer.fp32_partitioned_groups_flat:
        optimizer.state[flat] = {name: torch.zeros_like(flat) for name in names} | {"step": torch.zeros(())}


def local_shard(weight: Any, name: str | None, mesh: DeviceMesh | None) -> Tensor:
    """A moment by its name, or the master weight, as a flat DTensor: what any number of processes can keep and read."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state
    from torch.distributed.tensor import DTensor, Shard

    shard: Any = safe_get_local_optimizer_state(weight, name) if name else safe_get_local_fp32_param(weight)
    assert mesh is not None
    shard = shard[: _length(weight, mesh.get_local_rank())]
    return DTensor.from_local(shard, mesh, [Shard(0)], run_check=False, shape=(weight.ds_numel,), stride=(1,))  # pyright: ignore


def restore_weights(weight: Any, name: str | None, value: Any) -> None:
    """The reverse of `local_shard`."""
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state
    from torch.nn.functional import pad

    shard = value.to_local()
    shard = pad(shard, (0, weight.ds_tensor.numel() - len(shard)))
    safe_set_local_optimizer_state(weight, shard, name) if name else safe_set_local_fp32_param(weight, shard)
