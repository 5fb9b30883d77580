"""Runs commands that are killed (kill -9), over and over, and goes on with them: `python killing.py PLANS.json`, or by hand,
with what came of it in words: `python tests/e2e/killing.py 20 20 7` (kills of a run and of an evaluation, of a bench, seed).

Everything is imported once; each life of a command is a fork. A death is random: after so many seconds, or at the n-th
operation on a file of its folder (a file opened for writing, renamed or removed, a folder made or removed), and what was
being written is left torn: the beginning of another text stands where the file would have been, or at its end.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OPERATIONS = ("open", "os.truncate", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
TORN = b'{"torn'
FAULTS = (errno.ENOSPC, errno.EROFS, errno.EIO)  # no space left, a disk that became read-only, a broken one
DEATHS_OF_A_RUN = 4  # then it may come to its end
FEW = ("--evaluation.rows", "2", "--evaluation.new-tokens", "2")
BY_ONE = ("--evaluation.rows", "4", "--evaluation.new-tokens", "2", "--evaluation.batch", "1")  # many batches
SHORT = ("--train.epochs", "3", "--train.batch", "4", "--train.lr", "1e-3", "--keep.every", "1", "--keep.newest", "2")


def plans(home: Any, base: Path, *, kills: tuple[int, int, int], seed: int, faults: bool = False) -> list[dict[str, Any]]:
    """A run, a bench, an evaluation in the tests' home, each to be killed, or to meet faults of the disk, so often."""
    bench = ("bench", "--model", str(home.model), *home.rows, "--out", "{out}", *FEW, "--train.epochs", "1", "--train.batch")
    bench += ("4", "--rates", "1e-4", "1e-2", "--methods", "graddiff", "--trials", "3", "--seeds", "0")
    bench += ("--objective", "extraction_strength")  # an untrained model reveals nothing
    asked = ("evaluate", "--model", str(home.model), *home.rows, "--out", "{out}", *BY_ONE, "--evaluation.grad-norm")
    made = [
        {
            "first": home.forget("{out}", *SHORT, *FEW, "--evaluation.batch", "1"),
            "again": ("forget", "{out}", "--resume"),
            "begun": "run.yaml",
        },
        {"first": bench, "again": bench, "begun": "."},
        {"first": asked, "again": ("evaluate", "{out}", "--resume"), "begun": "evaluate.yaml"},
    ]
    for number, (plan, name) in enumerate(zip(made, ("run", "bench", "evaluation"), strict=True)):
        place = base / f"{name}-faults" if faults else base / name
        place.mkdir()
        plan |= {"home": str(place), "kills": kills[number], "seed": seed + number, "faults": faults}
    return made


def whole(folder: Path) -> dict[str, object]:
    """What must be the same of a run: which files there are, weights, scorer, importance, records, and all results and steps
    but what they cost and where they lie."""
    results = json.loads((folder / "results.json").read_text())
    results.pop("cost")
    results["run"].pop("out")
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    told = [[s[k] for k in ("step", "loss", "grad_norm", "lr", "scorer")] for s in steps]
    files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    exact = [n for n in files if n not in ("results.json", "steps.jsonl", "run.yaml", "report.html")]
    return {"results": results, "steps": told, "files": list(files)} | {n: files[n].read_bytes() for n in exact}


def whole_bench(folder: Path) -> dict[str, object]:
    """What must be the same of a bench of one method and seed: its trials, results and files; none done twice."""
    results = json.loads((folder / "graddiff" / "seed-0" / "results.json").read_text())
    results.pop("cost")
    results["run"].pop("out")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    trials = (folder / "graddiff" / "trials.jsonl").read_bytes()
    return {"results": results, "files": files, "trials": trials, "twice": folder.with_suffix(".twice").exists()}


def whole_evaluation(folder: Path) -> dict[str, bytes]:
    """What must be the same of an evaluation: all of it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


SAME = (whole, whole_bench, whole_evaluation)


@dataclass(frozen=True, kw_only=True)
class Life:
    """How a process ended: its exit code, None where it was killed; how many operations it had begun, and the last one."""

    code: int | None
    operations: int
    last: str
    seconds: float


def live(
    args: Sequence[str], folder: Path, *, at: int | None = None, after: float | None = None, fault: int | None = None
) -> Life:
    """One process of the command, killed at an operation or after seconds, or left alone; with a `fault` not killed, but
    every operation from then on fails so."""
    told, telling = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if not child:
        os.close(told)
        be_killed(folder, at, telling, fault)
        os._exit(carry_out(args, folder.with_suffix(".log")))
    os.close(telling)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(told, encoding="utf-8") as f:
        operations = f.read().splitlines()
    _, status = os.waitpid(child, 0)
    code = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    last = operations[-1] if operations else ""
    return Life(code=code, operations=len(operations), last=last, seconds=time.monotonic() - began)


def be_killed(folder: Path, at: int | None, telling: int, fault: int | None) -> None:
    """This process tells of each operation on a file of the folder from now on; at one it dies or meets the fault."""
    count, busy = 0, False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count, busy
        if busy or event not in OPERATIONS or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        inside = Path(path).is_relative_to(folder)
        if not inside and not (event in ("os.remove", "os.rmdir") and args[-1] != -1):  # rmtree goes by open folders
            return
        if event == "open" and not (args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        busy, count = True, count + 1
        os.write(telling, f"{event} {path}\n".encode())
        if fault is not None and at is not None and count >= at:
            busy = False
            raise OSError(fault, os.strerror(fault), path)
        if count == at:
            if event == "open":
                how = os.O_APPEND if args[2] & os.O_APPEND else os.O_TRUNC
                os.write(os.open(path, os.O_WRONLY | os.O_CREAT | how), TORN)
            os.kill(os.getpid(), signal.SIGKILL)
        busy = False

    sys.addaudithook(hook)


def carry_out(args: Sequence[str], log: Path) -> int:
    """The command itself; what it says goes to a file."""
    from deleatur.cli.main import main

    with log.open("a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        try:
            main(list(args))
        except SystemExit as e:
            return int(e.code or 0)
        except BaseException:
            traceback.print_exc()
            return 1
    return 0


def import_all() -> None:
    """What commands import, before there is any thread; safetensors, which writes past Python, tells of its files too."""
    import matplotlib.figure
    import torch
    import transformers.modeling_utils
    import transformers.models.llama.modeling_llama

    import deleatur.cli.console
    import deleatur.cli.verbs
    import deleatur.commands.bench
    import deleatur.commands.evaluation
    import deleatur.commands.tuning
    import deleatur.io.tensors

    assert matplotlib.figure
    torch.set_num_threads(1)

    def telling(save):
        def saved(tensors, path, *args, **more):
            sys.audit("open", os.fspath(path), "wb", os.O_WRONLY)
            return save(tensors, path, *args, **more)

        return saved

    for module, name in [(deleatur.io.tensors, "save_file"), (transformers.modeling_utils, "safe_save_file")]:
        setattr(module, name, telling(getattr(module, name)))
    value_of = deleatur.commands.bench.BenchRunner.value_of

    def once(bench: deleatur.commands.bench.BenchRunner, run: Any, method: str) -> float:
        lines = [line for log in bench.out.rglob("trials.jsonl") for line in log.read_text().splitlines()]
        if any(
            line.endswith("}") and json.loads(line)["values"] == deleatur.commands.tuning.values_of(run.method)
            for line in lines
        ):
            bench.out.with_suffix(".twice").touch()
        return value_of(bench, run, method)

    deleatur.commands.bench.BenchRunner.value_of = once


def main(plan: dict[str, Any]) -> dict[str, Any]:
    """Kills `plan["kills"]` lives of the command `first` (with {out} for its folder), which is resumed by `again` once
    the file `begun` is there.

    Returns how each death came about, the folders of the runs that came to their end, and what exited otherwise.
    """
    home, draw = Path(plan["home"]), random.Random(plan["seed"])
    assert carry_out(command(plan["first"], home / "warm"), home / "warm.log") == 0  # forks have what it imported and cached
    alone = home / "alone"
    once = live(command(plan["first"], alone), alone)
    assert once.code == 0, alone.with_suffix(".log").read_text()
    deaths: list[str] = []
    ended: list[str] = []
    wrong: list[str] = []
    while len(deaths) < plan["kills"] and not wrong:
        folder, died = home / f"run-{len(ended)}", 0
        while True:
            begun = (folder / plan["begun"]).exists()
            args = command(plan["again" if begun else "first"], folder)
            how: dict[str, Any] = {}
            if died < DEATHS_OF_A_RUN and len(deaths) < plan["kills"]:
                timed = len(deaths) % 5 == 4 and not plan["faults"]
                most = once.operations if not died else once.operations // 3
                how = {"after": draw.uniform(0, once.seconds)} if timed else {"at": draw.randint(1, most)}
                how |= {"fault": draw.choice(FAULTS)} if plan["faults"] else {}
            life = live(args, folder, **how)
            fault = how.get("fault")
            if life.code is None or (fault is not None and (life.code == 0 or _is_told(folder, fault))):
                died += 1
                what = (
                    {0: "passed over, ", 2: "told in a line, "}.get(life.code or 0, "") + errno.errorcode[fault]
                    if fault
                    else ""
                )
                deaths.append(what or ("time" if "after" in how else life.last.replace(str(folder), "")))
            elif life.code == 0 or _was_finished(folder):
                ended.append(str(folder))
                break
            else:
                wrong.append(f"{args} after {deaths[-1:]}: {life.code}\n{folder.with_suffix('.log').read_text()[-2000:]}")
                break
    return {"alone": str(alone), "deaths": deaths, "ended": ended, "wrong": wrong, "operations": once.operations}


def _is_told(folder: Path, fault: int) -> bool:
    """Is the fault said in the last line, and is there no traceback?"""
    said = folder.with_suffix(".log").read_text()
    return said.splitlines()[-1].startswith("deleatur: ") and os.strerror(fault) in said and "Traceback" not in said


def _was_finished(folder: Path) -> bool:
    """Did the last death come when there was nothing left to do but to show it?"""
    return folder.with_suffix(".log").read_text().endswith(" is finished; there is nothing to resume\n")


def command(args: Sequence[str], folder: Path) -> list[str]:
    return [a.replace("{out}", str(folder)) for a in args]


def by_hand(kills: tuple[int, int, int], seed: int) -> None:
    """Prints of each how many kills it survived, whether the bytes are equal, and at what it died."""
    from conftest import make_home

    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        (base / "home").mkdir()
        home = make_home(base / "home")
        asked = [plan for faults in (False, True) for plan in plans(home, base, kills=kills, seed=seed, faults=faults)]
        for plan, same in zip(asked, 2 * SAME, strict=True):
            told = main(plan)
            equal = [same(Path(folder)) == same(Path(told["alone"])) for folder in told["ended"]]
            tried, what = len(told["deaths"]), "faults" if plan["faults"] else "kills"
            print(
                f"{plan['first'][0]}: {tried - len(told['wrong'])} of {tried} {what} survived, over {len(equal)} runs;",
                end=" ",
            )
            print(
                f"bytes equal to one left alone: {sum(equal)} of {len(equal)}; {told['operations']} operations in that one"
            )
            for kind, count in Counter(_kind(death) for death in told["deaths"]).most_common():
                print(f"  {count:3} {kind}")
            print("\n".join(told["wrong"]))


def _kind(death: str) -> str:
    """The operation at which it died, and on what."""
    event, _, path = death.partition(" ")
    return f"{event} {re.sub(r'[0-9]+', 'N', path)}".strip()


if __name__ == "__main__":
    import_all()
    if len(sys.argv) == 2:
        print(json.dumps([main(plan) for plan in json.loads(Path(sys.argv[1]).read_text())]))
    else:
        runs, benches, seed = map(int, sys.argv[1:])
        by_hand((runs, benches, runs), seed)
