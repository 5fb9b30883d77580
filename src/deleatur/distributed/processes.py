"""One process or many: which one writes, which rows each evaluates, what all share, how weights are sharded.

Processes come from `torchrun` or `accelerate launch`. Each holds the full model, or with ACCELERATE_USE_FSDP=true and
FSDP_VERSION=2 (what `accelerate launch --use_fsdp --fsdp_version 2` sets) a share of every weight: a DTensor. With
ACCELERATE_USE_DEEPSPEED=true (`accelerate launch --use_deepspeed --zero_stage 3`) it is a share too: a weight is empty but
while it's used, and its `ds_tensor` holds the share, flat. Torch is imported where it is used, so that `is_first`
costs nothing.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, TypeVar

from deleatur.distributed import deepspeed
from deleatur.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

T = TypeVar("T")


def is_first() -> bool:
    """Is this the process that prints and writes?"""
    return os.environ.get("RANK", "0") == "0"


def start() -> Accelerator:
    """Meet the other processes, where a launcher started some. Raises ConfigError for an engine that is not known here."""
    import torch
    from accelerate import Accelerator

    if not torch.cuda.is_available():  # else DeepSpeed, where it is installed, says so on stdout, amid results
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if _engine_requested("DEEPSPEED"):
        _check_zero3()
    if _engine_requested("FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("only version 2 of FSDP is supported; give accelerate launch --fsdp_version 2")
    made = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")  # the run names its precision itself
    atexit.unregister(_part)
    atexit.register(_part)
    return made


def _part() -> None:
    import torch.distributed as dist

    if count() > 1:
        dist.destroy_process_group()


def _engine_requested(engine: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def _check_zero3() -> None:
    if find_spec("deepspeed") is None:
        raise ConfigError("DeepSpeed is not installed; pip install 'deleatur[deepspeed]'")
    from accelerate.utils import DeepSpeedPlugin

    os.environ["ACCELERATE_DEEPSPEED_ZERO3_INIT"] = "false"  # a model is checked before its weights are sharded
    if (stage := DeepSpeedPlugin().zero_stage) != 3:
        raise ConfigError(f"only stage 3 of ZeRO is supported, not {stage}; give accelerate launch --zero_stage 3")


def will_shard() -> bool:
    """Is each process to hold a share of every weight in place of a copy? Known once they have met."""
    return (_engine_requested("FSDP") or _engine_requested("DEEPSPEED")) and count() > 1


def count() -> int:
    """How many processes there are, at least 1."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def index() -> int:
    """Which of them this is, counted from 0."""
    import torch.distributed as dist

    return dist.get_rank() if count() > 1 else 0


def gather(value: Any) -> list[Any]:
    """What each process holds, in their order and known to all: anything that JSON can hold, floats to the bit.

    All processes have to call it. Alone, the value itself in a list.
    """
    if count() == 1:
        return [value]
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    device = PartialState().device
    sent = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(count())]
    dist.all_gather(sizes, torch.tensor([len(sent)], device=device))
    lengths = [int(size) for size in sizes]
    room = [torch.zeros(max(lengths), dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(room, torch.nn.functional.pad(sent, (0, max(lengths) - len(sent))))
    return [json.loads(bytes(received[:n].tolist())) for received, n in zip(room, lengths, strict=True)]


def agree(make: Callable[[], Any]) -> Any:
    """The first process's result, broadcast; the others wait."""
    return gather(make() if is_first() or count() == 1 else None)[0]


def share(rows: Iterable[T]) -> list[T]:
    """This process's part of the rows. All parts are equally long, since sharded weights come together only where all
    processes call for them; the first rows fill up what is short, and are evaluated twice."""
    rows = list(rows)
    full = islice(cycle(rows), len(rows) + -len(rows) % count())
    return list(full)[index() :: count()]


def place_model(model: Any) -> None:
    """Move a TokenModel to this process's device, or shard its weights over all processes where the launcher says so: each
    keeps its share of every weight, and a decoder layer is complete only while it runs. In place; from then on only the
    model's own `forward` and `generate` run it."""
    if not will_shard():
        model.to(start().device).enable_gpu_kernels()
        return
    if _engine_requested("DEEPSPEED"):
        deepspeed.shard_model(model, start().device)
        return
    from accelerate import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    offload: Any = FullyShardedDataParallelPlugin().cpu_offload
    layers = set(model.lm._no_split_modules or ())
    for module in [m for m in model.modules() if type(m).__name__ in layers]:
        fully_shard(module, offload_policy=offload)
    fully_shard(model, offload_policy=offload, reshard_after_forward=True)
    for name in ("generate", "enable_gpu_kernels"):
        register_fsdp_forward_method(model, name)
    model.enable_gpu_kernels()


def is_sharded(model: nn.Module) -> bool:
    """Does each process hold only its share of the weights?"""
    return any(_sharded(p) is not None or deepspeed.is_partitioned(p) for p in model.parameters())


def _sharded(x: Tensor) -> DTensor | None:
    """The tensor itself where FSDP2 shards it."""
    from torch.distributed.tensor import DTensor

    return x if isinstance(x, DTensor) else None


def full_tensor(x: Tensor) -> Tensor:
    """The full tensor of what may be sharded; all processes have to call."""
    if deepspeed.is_partitioned(x):
        with deepspeed.gathered([x]):
            return x.detach().clone()
    return x if (sharded := _sharded(x)) is None else sharded.full_tensor()


def gathered(module: Any) -> AbstractContextManager[object]:
    """Its weights are gathered inside; the first process's changes are broadcast."""
    return (
        deepspeed.gathered(list(module.parameters()))
        if any(map(deepspeed.is_partitioned, module.parameters()))
        else nullcontext()
    )


def part(x: Tensor) -> Tensor:
    """This process's shard; a view."""
    if deepspeed.is_partitioned(x):
        return deepspeed.part(x, index())
    return x if (sharded := _sharded(x)) is None else sharded.to_local()


def size(x: Tensor) -> int:
    """Number of elements of the full tensor."""
    return getattr(x, "ds_numel", x.numel())


def put(x: Tensor, kept: Tensor) -> None:
    """Copy saved values back into a weight, in place; both are sharded in the same way."""
    part(x).copy_(part(kept))
    deepspeed.repartition(x)


def mesh_of(weight: Tensor) -> DeviceMesh | None:
    """The mesh over which it is sharded; None for a weight that is not."""
    from torch.distributed.device_mesh import init_device_mesh

    if deepspeed.is_partitioned(weight):
        return init_device_mesh(weight.device.type, (count(),))
    return None if (sharded := _sharded(weight)) is None else sharded.device_mesh


def full_weights(model: nn.Module, kept: tuple[str, ...] = ("",)) -> dict[str, Tensor] | None:
    """All weights, or those whose names begin with one of `kept`, on the first process's CPU, nothing on the others; None
    where each holds the model anyway."""
    if not is_sharded(model):
        return None
    made: dict[int, Tensor] = {}  # tied weights are one tensor
    out = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if not name.startswith(kept):
            continue
        if id(weight) not in made:
            full = full_tensor(weight).detach()
            made[id(weight)] = full.cpu() if is_first() else full[:0].cpu()
        out[name] = made[id(weight)]
    return out if is_first() else {}


def sum_gradients(weights: Sequence[nn.Parameter]) -> None:
    """Add up what the processes' backward passes left. A weight that has a gradient in none of them stays without."""
    if count() == 1:
        return
    import torch
    import torch.distributed as dist

    found = torch.tensor([p.grad is not None for p in weights], dtype=torch.uint8, device=weights[0].device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    for p, some in zip(weights, found.tolist(), strict=True):
        if some and p.grad is None:
            p.grad = torch.zeros_like(p)
    waiting = [dist.all_reduce(p.grad, async_op=True) for p in weights if p.grad is not None]
    for work in filter(None, waiting):
        work.wait()


def fingerprints(weights: Iterable[Tensor]) -> list[int]:
    """A number for each tensor (this process's part of it) that another hardly has: the sum of its bits as integers."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number
    shards = (part(p).detach().contiguous() for p in weights)
    sums = [p.view(integers[p.element_size()]).sum(dtype=torch.int64) for p in shards]
    return torch.stack(sums).tolist() if sums else []
