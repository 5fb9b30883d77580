"""What can go wrong, by whose hand it is mended."""

import contextlib
import signal
from collections.abc import Iterator

GO_ON = "go on with:"


class DeleaturError(Exception):
    """Anything the user can mend. The message says what was seen, what is needed and what to do."""


class DataError(DeleaturError):
    """A row or a file is not what it has to be."""


class ConfigError(DeleaturError):
    """A setting is out of range, unknown, or contradicts another."""


class ModelError(DeleaturError):
    """A model or tokenizer cannot be used as asked."""


class Diverged(DeleaturError):
    """Training left the range in which its result means anything."""


class Interrupted(KeyboardInterrupt):
    """Somebody asked for a stop, by a signal; nothing is wrong. What catches errors lets it pass, as it does Ctrl-C."""

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


@contextlib.contextmanager
def going_on(how: str) -> Iterator[None]:
    """A stop that somebody asks for meanwhile says how to go on; where parts have ways of their own, the innermost's."""
    try:
        yield
    except KeyboardInterrupt as e:
        if GO_ON in str(e):
            raise
        said = f"{str(e) or 'interrupted'}; {GO_ON} {how}"
        raise Interrupted(said, signal=getattr(e, "signal", signal.SIGINT)) from e
