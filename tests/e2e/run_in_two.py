"""Command lines, one after the other, in each of several processes, which test_processes.py starts: RANK WORLD_SIZE … FILE.

FILE holds JSON: a list of {"environment": {…}, "stop": step or nothing, "command": […]}. A process that is to stop sends
itself SIGTERM after that step. What each command exits with goes to FILE.<rank>.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from deleatur import console
from deleatur.cli import main
from deleatur.evidence import Progress


@contextmanager
def stopping_at(step: int):
    def heard(made, steps: int) -> None:
        if made.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    yield Progress(step=heard)


def run(file: Path) -> None:
    torch.set_num_threads(1)
    watch, codes = console.watch, []
    for job in json.loads(file.read_text()):
        os.environ |= job["environment"]
        console.watch = watch if job["stop"] is None else lambda step=job["stop"]: stopping_at(step)
        try:
            main(job["command"])
            codes.append(0)
        except SystemExit as e:
            codes.append(e.code)
        file.with_suffix(f".{os.environ['RANK']}").write_text(json.dumps(codes))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
