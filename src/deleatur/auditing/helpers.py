"""Further processes that share an audit's work on a CPU: small models leave cores idle in one process."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import torch

BYTES = 24  # a parameter: fp32 weights, a copy of them, gradients, both of AdamW's moments, and 4 for all else

CGROUP = Path("/sys/fs/cgroup")  # the limits of a container


def free_memory() -> int:
    """Bytes that are free on this machine, and in this process's container where that has a limit."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # there is none, or it says "max"
        return free
    return max(0, min(free, limit - used))


class Helpers:
    """Processes that work in the audit's folder too, until the context ends or this process is killed.

    Where one dies, what it was at is left to the others.
    """

    def __init__(self) -> None:
        self._begun, self._threads, self._started = False, torch.get_num_threads(), list[subprocess.Popen[bytes]]()

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._threads)
        for helper in self._started:
            helper.kill()
            helper.communicate()

    def start(self, task: object, *, arms: int, parameters: int) -> None:
        """Share this process's threads with helpers: in all a process for each arm, as far as threads and memory last.

        They run `deleatur.auditing.work.help_with` and get `task` there. None on a GPU or from the second call on.
        """
        if self._begun or torch.cuda.is_available():
            return
        self._begun = True
        room = free_memory() // (BYTES * max(parameters, 1))
        processes = max(1, min(self._threads, arms, room))
        torch.set_num_threads(self._threads // processes)
        self._started += [start_helper(task, self._threads // processes) for _ in range(processes - 1)]


def start_helper(task: object, threads: int) -> subprocess.Popen[bytes]:
    """A process that gets the task; its pipe stays open, so that it learns of this one's end."""
    helper = subprocess.Popen(
        [sys.executable, "-P", "-c", "from deleatur.auditing.work import help_with; help_with()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    pipe = helper.stdin
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):  # it has died; this process does the work alone
        pickle.dump(task, pipe)
        pipe.flush()
    return helper


def receive() -> Any:
    """In a helper: its task. From now on it ends when the process that started it does."""
    task = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with, args=(sys.stdin.fileno(),), daemon=True).start()
    return task


def _end_with(pipe: int) -> None:
    os.read(pipe, 1)  # not through sys.stdin, which must not be read at exit
    os._exit(1)
