"""Atomic commit and exact resume: a checkpoint is written aside, flushed, then renamed, and checked by hash when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, empty

from deleatur.distributed.processes import agree, gather, is_first
from deleatur.errors import ConfigError, Interrupted
from deleatur.io.atomic import atomic_folder, write_atomic
from deleatur.io.tensors import write_tensors


class Checkpoints:
    """The state of training in `folder`, every so many steps; only the newest `keep` stay."""

    def __init__(self, folder: Path, *, every: int | None, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.stop_signal: int | None = None  # the signal to stop that came to this process, at any moment
        self.agreed: int | None = None  # the signal by which all processes stop
        self.verified: set[Path] = set()  # places whose hashes were right

    def due(self, step: int, steps: int) -> bool:
        """Is the state to be saved after this step?"""
        self.agreed = next((s for s in gather(self.stop_signal) if s is not None), None)  # a signal to one stops all
        return self.agreed is not None or (self.every is not None and (step % self.every == 0 or step == steps))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save the state: a kill at any moment leaves it complete or absent. Raises ConfigError on a full disk."""
        place, aside = self._place(step), self.folder / ".part"
        tensors: dict[str, Tensor] = {}
        plain = _take_tensors(state, tensors)
        try:
            with atomic_folder(place, aside=aside) if is_first() else nullcontext():
                self._save_shards(aside / "shards", {name: x for name, x in tensors.items() if isinstance(x, DTensor)})
                if is_first():
                    _fill(aside, plain, {name: x for name, x in tensors.items() if not isinstance(x, DTensor)})
        except ConfigError as e:
            raise ConfigError(f"{e}, or keep no checkpoints (--keep.every None)") from e
        if is_first():
            self._drop_old(place)
        gather(None)  # no process goes on before it is complete

    def _save_shards(self, part: Path, tensors: dict[str, DTensor]) -> None:
        """Sharded tensors: each process writes its own shard, as safetensors."""
        gather(None)
        if tensors:
            state_dict_saver.save(tensors, storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True))
        gather(None)

    def _drop_old(self, place: Path) -> None:
        newest = [one for one in self._places() if one <= place][: self.keep]  # those of later steps are harmed
        for old in self._places():
            if old not in newest:
                shutil.rmtree(old)

    def newest(self) -> int:
        """The step of the newest complete checkpoint, 0 where there is none."""
        places = (int(place.name.removeprefix("step-")) for place in self._places() if self._is_complete(place))
        return agree(lambda: next(places, 0))

    def load(self, step: int, mesh: DeviceMesh | None = None) -> dict[str, Any]:
        """The state after a step; sharded weights are sharded over `mesh`, whatever number of processes saved them.

        Raises ConfigError where they were saved unsharded and are needed sharded, or the other way round.
        """
        place = self._place(step)
        plain = json.loads((place / "state.json").read_text(encoding="utf-8"))
        shards = _shards_of(plain)
        if bool(shards) is (mesh is None):
            kept, wanted = ("with", "without") if shards else ("without", "with")
            raise ConfigError(f"{place} was saved {kept} FSDP2 or ZeRO-3; resume {kept} it, not {wanted}")
        parts: dict[str, Any] = {
            name: empty(*shape, dtype=getattr(torch, dtype), device_mesh=mesh, placements=[Shard(0)])
            for name, shape, dtype in shards
        }
        if parts:
            state_dict_loader.load(parts, storage_reader=HuggingFaceStorageReader(str(place / "shards")))
        return _put_tensors(plain, load_file(place / "state.safetensors") | parts)

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM stop training after the current step; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(number: int, frame: object) -> None:
            """Note the first signal; raise Interrupted at the second."""
            if self.stop_signal is not None:
                raise Interrupted("interrupted", signal=number)
            self.stop_signal = number

        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, former in before.items():
                signal.signal(number, former)
        if self.stop_signal is not None:  # too late for a step to end with it
            raise Interrupted("interrupted after the last step", signal=self.stop_signal)

    def stop_if_requested(self, step: int) -> None:
        """Raises Interrupted if `due` found a stop signal; the state has to be saved by then."""
        if self.agreed is not None:
            raise Interrupted(f"interrupted after step {step}, which is kept", signal=self.agreed)

    def _is_complete(self, place: Path) -> bool:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            hashes = json.loads((place / "sha256.json").read_text(encoding="utf-8"))
            if place in self.verified or all(_sha256(place / name) == made for name, made in hashes.items()):
                self.verified.add(place)
                return True
        return False

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _places(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _fill(part: Path, plain: Any, tensors: dict[str, Tensor]) -> None:
    """The files of a checkpoint besides its shards; the hashes of all of them come last."""
    write_tensors(part / "state.safetensors", tensors)
    write_atomic(part / "state.json", json.dumps(plain))
    hashes = {str(path.relative_to(part)): _sha256(path) for path in sorted(part.rglob("*")) if path.is_file()}
    write_atomic(part / "sha256.json", json.dumps(hashes))


def _take_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value as JSON can hold it; its tensors go to `tensors` and leave their names."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):06d}"
        if isinstance(value, DTensor):
            tensors[name] = value.detach()
            return {"tensor": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[k, _take_tensors(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_take_tensors(v, tensors) for v in value]}
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `_take_tensors` was given."""
    match value:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": pairs}:
            return {k: _put_tensors(v, tensors) for k, v in pairs}
        case {"list": parts}:
            return [_put_tensors(v, tensors) for v in parts]
        case {"tuple": parts}:
            return tuple(_put_tensors(v, tensors) for v in parts)
    return value


def _shards_of(value: Any) -> list[tuple[str, list[int], str]]:
    """Name, full shape and type of each sharded tensor."""
    match value:
        case {"tensor": name, "shape": shape, "dtype": dtype}:
            return [(name, shape, dtype)]
        case {"dict": pairs}:
            return [found for _, v in pairs for found in _shards_of(v)]
        case {"list": parts} | {"tuple": parts}:
            return [found for v in parts for found in _shards_of(v)]
    return []


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
