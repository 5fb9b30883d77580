"""What each of two processes does, which test_processes.py starts: RANK WORLD_SIZE … FOLDER.

With copies of the weights, then with shares of them (FSDP2, DeepSpeed's ZeRO-3): the trainings of train_in_two.py, of
which each process writes the log and the weights, and the command lines in FOLDER/commands.json, of which it writes the exit
codes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from train_in_two import SCENARIOS, train

from deleatur.cli import console
from deleatur.cli.main import main
from deleatur.modeling import token_model as forward
from deleatur.progress import Progress

ENGINES = {
    "copies": {},
    "shares": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero": {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_USE_DEEPSPEED": "true"},
}
FEWER = {
    "zero": ("accumulated", "one left over of an accumulated step", "one left over that prefers", "erase, one left over")
}
DEEPSPEED = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 16}}  # norms are whole everywhere


@contextmanager
def stopping_after(step: int):
    """SIGTERM for this process after a step."""

    def heard(made, steps: int) -> None:
        if made.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    yield Progress(step=heard)


def command(given: dict) -> int:
    """Its exit code; `stop` names the process that hears a signal, and after which step."""
    watch, stop = console.watch, given["stop"]
    if stop is not None and os.environ["RANK"] == str(stop[0]):
        console.watch = lambda: stopping_after(stop[1])
    try:
        main(given["command"])
    except SystemExit as e:
        return int(e.code or 0)
    finally:
        console.watch = watch
    return 0


def both(folder: Path) -> None:
    torch.set_num_threads(1)
    forward.ENTRIES = 2**10  # the head goes chunk by chunk, in one process oftener than in the other
    accelerator = Accelerator(cpu=True)
    given = json.loads((folder / "commands.json").read_text())
    (folder / "deepspeed.json").write_text(json.dumps(DEEPSPEED))
    os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(folder / "deepspeed.json")
    os.environ["DS_ACCELERATOR"] = "cpu"  # else it says on stdout that there is no other
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}  # nothing is to be compiled first, for a minute: gloo will do
    for engine, asked in ENGINES.items():
        os.environ |= asked
        for name in FEWER.get(engine, SCENARIOS):
            logged, weights = train(name, accelerator)
            out = folder / f"{name}-{engine}-{accelerator.process_index}"
            save_file(weights, out.with_suffix(".safetensors"))
            out.with_suffix(".json").write_text(json.dumps(logged))
        codes = [command(each) for each in given[engine]]
        (folder / f"codes-{engine}-{accelerator.process_index}.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    both(Path(sys.argv[1]))
