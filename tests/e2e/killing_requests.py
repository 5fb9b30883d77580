"""Kills `deleatur request run` (kill -9) at random operations on files, and goes on: `python … HOME CASES KILLS SEED`.

HOME is a folder of the tests with models and rows, CASES one for ledgers and runs. Prints how it died, as JSON.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from conftest import Home, make_world
from killing import FEW, SHORT, carry_out, import_all, live


def begun(home: Home, case: Path) -> tuple[str, ...]:
    """A ledger with one request in the case's folder; returns the command that runs it."""
    case.mkdir()
    ledger = ("--ledger", str(case / "requests.jsonl"))
    assert carry_out(("request", "add", *ledger, *home.rows), case.with_suffix(".log")) == 0
    return (
        "request",
        "run",
        *ledger,
        "--model",
        str(home.model),
        "--recipe",
        "atwu-scorer",
        *SHORT,
        *FEW,
        "--train.epochs",
        "1",
    )


def main(home: Home, cases: Path, kills: int, seed: int) -> dict[str, list[str]]:
    draw, deaths, ended = random.Random(seed), [], ["alone"]
    alone = live(begun(home, cases / "alone"), cases / "alone")
    assert alone.code == 0, (cases / "alone.log").read_text()
    while len(deaths) < kills:
        case = cases / f"case-{len(ended)}"
        args, died = begun(home, case), 0
        while True:
            first = alone.operations - 5 if len(deaths) % 2 else 1  # every other time where the ledger is written last
            at = draw.randint(first, alone.operations) if died < 2 and len(deaths) < kills else None
            life = live(args, case, at=at)
            if life.code is not None:
                break
            died += 1
            deaths.append(life.last.replace(str(case), ""))
        said = case.with_suffix(".log").read_text()
        assert life.code == 0 or "is open; add one" in said, said[-2000:]  # it died when all was entered
        ended.append(case.name)
    return {"deaths": deaths, "ended": ended}


if __name__ == "__main__":
    import_all()
    import deleatur.cli.requests
    import deleatur.commands.requests  # noqa: F401

    home = Home(folder=Path(sys.argv[1]), world=make_world(people=3, forget=1, holdout=1, rows_per_fact=1))
    print(json.dumps(main(home, Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
