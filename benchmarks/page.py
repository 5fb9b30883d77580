"""What the benchmarks found goes between the marks of docs/performance.md, and is drawn: `python benchmarks/page.py`"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "svg")
import matplotlib.pyplot as plt
import torch
from step import CASES, GROWTH

DOCS = Path(__file__).parents[1] / "docs"
HEADS = {
    "step": ("step", "CPU s", "tokens/s", "against naive", "peak GB", "against naive", "share of GEMM peak", "scorer"),
    "growth": ("ATWU bf16", "CPU s a step", "µs a token", "peak GB"),
    "evaluation": ("what is evaluated", "against the plain way", "CPU s, ours"),
}


def rows_of_steps(found: dict[str, dict]) -> list[tuple[str, ...]]:
    """One row a case: the naive step's own costs stand in the page's prose."""
    made = []
    for name in (n for n in CASES if n in found):
        of = found[name]
        made.append(
            (
                name,
                f"{of['cpu_seconds']:.1f}",
                f"{of['tokens_per_second']:.0f}",
                f"**{of['ratio']:.2f}×** ({min(of['ratios']):.2f}–{max(of['ratios']):.2f})",
                f"{of['peak_bytes'] / 1e9:.2f}",
                f"{of['peak_bytes'] / of['naive_peak_bytes']:.2f}",
                f"{of['of_peak']:.0%} of {of['gemm_peak'] / 1e9:.0f} GFLOP/s",
                f"{of['scorer_share']:.1%}" if of["method"] == "ATWU" else "",
            )
        )
    return made


def rows_of_growth(found: dict[str, dict]) -> list[tuple[str, ...]]:
    """One row a size."""
    return [
        (name, f"{of['cpu_seconds']:.1f}", f"{1e6 / of['tokens_per_second']:.0f}", f"{of['peak_bytes'] / 1e9:.2f}")
        for name, of in ((n, found[n]) for n in GROWTH if n in found)
    ]


def rows_of_evaluation(found: dict[str, dict]) -> list[tuple[str, ...]]:
    """One row a kind of question."""
    return [
        (name, f"**{of['ratio']:.1f}×** ({min(of['ratios']):.1f}–{max(of['ratios']):.1f})", f"{of['ours']:.1f}")
        for name, of in found.items()
        if "ratio" in of
    ]


def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *body))


def machine() -> str:
    """Which processor, with which software, on which day."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (named := re.search(r"model name\s*:\s*(.*)", info.read_text(encoding="utf-8"))):
        cpu = named[1]
    return f"{cpu}, one thread; torch {torch.__version__}; {datetime.date.today()}"


def draw(found: dict[str, dict], path: Path) -> None:
    """Speed and memory of every case beside the naive step's, which are 1."""
    names = [n for n in CASES if n in found]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 0.36 * len(names) + 1.2), sharey=True, layout="constrained")
    for axis, values, title in (
        (speed, [found[n]["ratio"] for n in names], "speed, naive = 1 (more is better)"),
        (
            memory,
            [found[n]["peak_bytes"] / found[n]["naive_peak_bytes"] for n in names],
            "peak memory, naive = 1 (less is better)",
        ),
    ):
        axis.barh(names, values, color="#4C72B0")
        axis.axvline(1, color="#888888", linewidth=1)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    speed.invert_yaxis()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--found", default="runs/bench", help="folder of what the benchmarks wrote")
    args = parser.parse_args()
    home, page = Path(args.found), DOCS / "performance.md"
    text = page.read_text(encoding="utf-8")
    steps = json.loads((home / "step.json").read_text(encoding="utf-8"))
    asked = json.loads((home / "evaluation.json").read_text(encoding="utf-8"))
    blocks = {
        "machine": machine(),
        "step": table(HEADS["step"], rows_of_steps(steps)),
        "growth": table(HEADS["growth"], rows_of_growth(steps)),
        "evaluation": table(HEADS["evaluation"], rows_of_evaluation(asked)),
    }
    for name, made in blocks.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text, flags=re.S
        )
    page.write_text(text, encoding="utf-8")
    draw(steps, DOCS / "performance.svg")
    print(page)


if __name__ == "__main__":
    main()
