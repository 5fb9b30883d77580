"""What can go wrong, by whose hand it is mended."""

import contextlib
import signal
from collections.abc import Iterator

RESUME_WITH = "resume with:"


class DeleaturError(Exception):
    """Anything the user can mend. The message says what was seen, what is needed and what to do."""


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

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


@contextlib.contextmanager
def resume_hint(how: str) -> Iterator[None]:
    """An interrupt inside says how to resume; where such contexts are nested, the innermost does."""
    try:
        yield
    except KeyboardInterrupt as e:
        if RESUME_WITH in str(e):
            raise
        text = f"{str(e) or 'interrupted'}; {RESUME_WITH} {how}"
        raise Interrupted(text, signal=getattr(e, "signal", signal.SIGINT)) from e
