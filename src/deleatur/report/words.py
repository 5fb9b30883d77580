"""Settings and costs as a reader sees them."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from deleatur.report.tables import percent


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names in their order."""
    out: dict[str, Any] = {}
    for key, inner in value.items():
        out |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return out


def plain(value: Any) -> str:
    """A setting as YAML would have it, lists without brackets."""
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:.12g}" if value % 1 else str(value)  # 3 × 1e-4 is .0003, not what binary fractions make of it
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def one_line(text: str) -> str:
    """The text without line breaks and other controls, which would end a table's row or a comment."""
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in text).split())


def grouped(value: Any) -> str:
    """A whole number in groups of three digits, anything else plain."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}") if type(value) is int else plain(value)


def cost(name: str, value: float | None) -> str:
    """A figure of `results.json`'s costs with its unit, which the end of its name says."""
    if value is None:
        return "not measured"
    if name.endswith("_bytes"):
        return f"{value / 2**30:.2f} GiB"
    if name.endswith("_share"):
        return percent(value)
    if name == "seconds" and value >= 120:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{value:.3g} s" if "seconds" in name else grouped(value)
