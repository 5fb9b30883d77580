"""The end of the demo: two questions with their answers, what mattered, the verdict, and where the page is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from deleatur.cli.console import OUT, heat_text
from deleatur.data.messages import printable
from deleatur.report import verdict
from deleatur.report.answers import answered_rows, heated_rows
from deleatur.run_folder.schema import read_folder


def print_story(out: Path) -> None:
    """A dozen lines; tables and figures are on the page."""
    folder = read_folder(out)
    forgotten, kept = _first_known(heated_rows(folder)), _first_known(answered_rows(folder, "retain"))
    for name, item in (("Forget", forgotten), ("Keep", kept)):
        if item is not None:
            OUT.print(f"\n{name}: {printable(item['row']['question'])}", style="bold", soft_wrap=True)
            for side in ("before", "after"):
                OUT.print(_answer(side, item[side]), soft_wrap=True)
    if forgotten is not None:
        heat = heat_text(forgotten["row"]["answer"], forgotten["row"]["tokens"])
        OUT.print(Text("\nImportance of each token: ").append_text(heat), soft_wrap=True)
    found = verdict(folder.results)
    OUT.print(f"\n{found.headline}.", style="bold", soft_wrap=True)
    for reason in found.reasons[:3]:
        OUT.print(f"  {reason}", soft_wrap=True)
    OUT.print(f"\nThe page, with every answer and figure: {out / 'report.html'}", soft_wrap=True)


def _first_known(items: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The first row whose fact the model said before training; the first row where it said none."""
    return next((item for item in items if item["before"]["share"] == 1), next(iter(items), None))


def _answer(side: str, answer: dict[str, Any]) -> Text:
    """One answer, the fact in it set off, and in words whether it says the fact."""
    line = Text(f"  {side:<8}")
    for text, fact in answer["cut"]:
        line.append(printable(text), style="bold red" if fact else "")
    return line.append(f"  ({answer['says']})" if answer["says"] else "", style="dim")
