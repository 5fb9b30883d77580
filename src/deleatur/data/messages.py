"""Messages about refused rows: where a row is and what is wrong with it, never its text."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Sequence

from deleatur.errors import DataError


class ValueRepr(reprlib.Repr):
    """Cut short enough for a line."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlist, self.maxdict = 2, 80, 80, 3, 3


class RedactedRepr(ValueRepr):
    """Texts by their length alone: what is to be forgotten must not get into a log."""

    def repr_str(self, x: str, level: int) -> str:
        """A text as its number of characters."""
        return f"‹{len(x)} characters›"


VALUE_REPR, REDACTED_REPR = ValueRepr(), RedactedRepr()


def refusal(place: str, what: str) -> DataError:
    """The error, on one line that any terminal can show, whatever stands in the user's text and file names."""
    return DataError(printable(f"{place}: {what}"))


def printable(text: str) -> str:
    """The text with control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def show(value: object) -> str:
    """A name that the user gave, quoted for a message, at most some 80 characters of it."""
    return _repr(VALUE_REPR, value)


def redact_value(value: object) -> str:
    """What stands in a user's row, for a message: its texts are not shown."""
    return _repr(REDACTED_REPR, value)


def show_columns(names: Iterable[str], separator: str = ", ") -> str:
    """The first eight names of columns for a message. One with a blank may be a row's text, where a file has no heading."""
    shown = [redact_value(name) if re.search(r"\s", name) else show(name) for name in sorted(names)]
    return separator.join(shown[:8]) + (f"{separator}…" if len(shown) > 8 else "")


def _repr(way: reprlib.Repr, value: object) -> str:
    try:
        return way.repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"a huge {type(value).__name__}"


def show_all(values: Sequence[object], separator: str = ", ") -> str:
    """The first eight values for a message."""
    return separator.join(map(show, values[:8])) + (f"{separator}…" if len(values) > 8 else "")
