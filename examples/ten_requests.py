"""Ten deletion requests one after the other on the demo's world, and what is forgotten and kept after each.

    python examples/ten_requests.py models/fine-tuned-… --out runs/ten

MODEL is the fine-tuned model that `deleatur demo` leaves in models/, with its rows. Ten of the people whom the demo keeps
ask to be forgotten. The rows to keep are those of the ten others and of whoever has not asked yet. Made again, it goes on
where it was, and prints the table at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import groupby
from pathlib import Path

PEOPLE = 10
SETS = ("forget", "retain", "holdout")
STEPS = "--train.batch 4 --train.epochs 7 --train.precision bf16"  # 21 steps
OPTIONS = f"{STEPS} --evaluation.rows 12 --evaluation.new-tokens 32".split()


def write_rows(world: Path, out: Path) -> list[tuple[str, str]]:
    """Files of rows, and for each person who asks the names of those to forget and to keep.

    Each paraphrase is asked once: the two rows of a fact have the same two.
    """
    rows = {name: [json.loads(line) for line in (world / f"{name}.jsonl").open(encoding="utf-8")] for name in SETS}
    for row in (row for part in rows.values() for row in part):
        row["paraphrases"] = [row["paraphrases"][int(row["id"].rpartition("-")[2])]]
    people = [list(part) for _, part in groupby(rows["retain"], lambda row: row["subject"])]
    files = {"holdout.jsonl": rows["holdout"]}
    for number, asks in enumerate(people[:PEOPLE], 1):
        files[f"request-{number:02}.jsonl"] = asks
        files[f"retain-{number:02}.jsonl"] = rows["forget"] + [row for part in people[number:] for row in part]
    for name, part in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (out / name).write_text(text, encoding="utf-8")
    return [(name, name.replace("request", "retain")) for name in files if name.startswith("request")]


def deleatur(*args: object, folder: Path) -> int:
    """A command of deleatur in a folder; its exit code."""
    return subprocess.run([sys.executable, "-m", "deleatur", *map(str, args)], cwd=folder).returncode


def table(out: Path) -> str:
    """A line a request: its own rows, all earlier ones, rows to keep and unseen ones, after its run."""
    requests = [json.loads(line) for line in (out / "requests.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [
        "| request | its rows, paraphrased | NLL of its values | earlier requests known | highest of an earlier one | "
        "lowest NLL of an earlier one | retain | incoherent forget, retain answers | unseen | steps |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for number, request in enumerate((r for r in requests if r["left"]), 1):
        folder = out / request["run"]
        results, checks = (json.loads((folder / name).read_text()) for name in ("results.json", "requests.json"))
        before, left, earlier = request["before"], request["left"], checks[:-1]
        after = results["after"]
        retain = [_percent(results[side]["retain"]["revealed"]["value"]) for side in ("before", "after")]
        moved = [f"{_percent(before[k])} → {_percent(left[k])}" for k in ("revealed", "paraphrased")]
        highest = max((max(c["now"]["revealed"], c["now"]["paraphrased"]) for c in earlier), default=None)
        lowest = min((c["now"]["nll"] for c in earlier), default=None)
        lines.append(
            f"| {number} | {', '.join(moved)} % | {before['nll']:.2f} → {left['nll']:.2f} | "
            f"{sum(c['known'] for c in earlier)} of {len(earlier)} | {_percent(highest)} | "
            f"{'–' if lowest is None else f'{lowest:.2f}'} | "
            f"{' → '.join(retain)} | "
            f"{_percent(after['forget']['incoherent']['value'])}, {_percent(after['retain']['incoherent']['value'])} | "
            f"{_percent(after['holdout']['revealed']['value'])} | {results['cost']['steps']} |"
        )
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}".removesuffix(".0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ten"))
    given, more = parser.parse_known_args()  # more for deleatur request run
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "requests.jsonl").exists():
        for asks, kept in write_rows(given.model / "rows", given.out):
            rows = ("--forget", asks, "--retain", kept, "--holdout", "holdout.jsonl")
            deleatur("request", "add", *rows, folder=given.out)
    code = deleatur("request", "run", "--all", "--model", given.model.resolve(), *OPTIONS, *more, folder=given.out)
    print(table(given.out))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
