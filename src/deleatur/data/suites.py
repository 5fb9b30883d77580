"""Benchmarks by name: `tofu/forget10`, `rwku/Elon Musk`, `muse/news`, …"""

from __future__ import annotations

from collections.abc import Callable

from deleatur.data import lume, multiple_choice, muse, rwku, tofu, wmdp
from deleatur.data.files import refusal, show
from deleatur.settings import Data
from deleatur.types import Suite

SUITES: dict[str, Callable[[str | None, Data], Suite]] = {
    "tofu": tofu.suite,
    "rwku": rwku.suite,
    "muse": muse.suite,
    "wmdp": wmdp.suite,
    "lume": lume.suite,
    "mmlu": multiple_choice.mmlu,
    "truthfulqa": multiple_choice.truthfulqa,
}


def read_suite(name: str, settings: Data) -> Suite:
    """The suite `name`, or a part of it as `name/part`. Raises DataError for an unknown one, and as `read_as`."""
    suite, _, part = name.partition("/")
    if suite not in SUITES:
        raise refusal(
            "suite", f"{show(name)} is not a suite; there are {', '.join(SUITES)}, with /part where they have parts"
        )
    return SUITES[suite](part or None, settings)
