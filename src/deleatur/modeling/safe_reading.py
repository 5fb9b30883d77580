"""Why something could not be read, in a line."""

from __future__ import annotations


def why(e: BaseException) -> str:
    """The first line of an exception that says something; of one that says little, its kind as well."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    if not lines:
        return type(e).__name__
    said = " ".join(lines[:2]) if lines[0].endswith((":", ",")) else lines[0]
    return f"{type(e).__name__}: {said}" if isinstance(e, KeyError | AttributeError | TypeError) else said.rstrip(".")
