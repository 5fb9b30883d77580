"""Exceptions, by what a user can do about them."""

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["ConfigError", "DataError", "DeleaturError", "Diverged", "Interrupted", "ModelError"]

RESUME_WITH = "resume with:"


class DeleaturError(Exception):
    """Anything the user can fix. The message says what was seen, what is needed and what to do."""


class DataError(DeleaturError):
    """A row or a file is not what it has to be."""


class ConfigError(DeleaturError):
    """A setting is out of range, unknown, or contradicts another."""


class ModelError(DeleaturError):
    """A model or tokenizer cannot be used with these settings."""


class Diverged(DeleaturError):
    """Training left the range in which its result means anything."""


class Interrupted(KeyboardInterrupt):
    """A signal (SIGINT, SIGTERM) stopped the command; nothing is wrong. `except Exception` lets it pass."""

    def __init__(self, message: str, *, signal: int, resume: bool = False) -> None:
        super().__init__(message)
        self.signal, self.resume = signal, resume  # does the message say how to resume?


@contextlib.contextmanager
def resume_hint(how: str) -> Iterator[None]:
    """An interrupt inside says how to resume; where such contexts are nested, the innermost does."""
    try:
        yield
    except KeyboardInterrupt as e:
        known = e if isinstance(e, Interrupted) else Interrupted(str(e) or "interrupted", signal=signal.SIGINT)
        if known.resume:
            raise
        raise Interrupted(f"{known}; {RESUME_WITH} {how}", signal=known.signal, resume=True) from e


def why(e: BaseException) -> str:
    """What a library's exception says, on one line of at most 200 characters; of one that says little, its kind as well."""
    lines = [line.strip() for line in str(getattr(e, "strerror", None) or e).splitlines() if line.strip()]
    if not lines:
        return type(e).__name__
    said = " ".join(lines[:2]) if lines[0].endswith((":", ",")) else lines[0]
    said = f"{type(e).__name__}: {said}" if isinstance(e, KeyError | AttributeError | TypeError) else said.rstrip(".")
    return said[:200]
