"""The parser, with its errors as one line, and the look ahead that it needs."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from deleatur.config.run_config import nearest
from deleatur.errors import ConfigError

T = TypeVar("T")


def parse(cls: type[T], args: list[str], *, verb: str, default: T | None = None) -> T:
    """tyro's parser, with its errors as one line."""
    return _parsed(cls, args, verb, default=default)


def parse_known(cls: type[T], args: list[str], *, verb: str) -> tuple[T, list[str]]:
    """The same, and the arguments that it does not know."""
    return _parsed(cls, args, verb, return_unknown_args=True)


def _parsed(cls: type, args: list[str], verb: str, **how: Any) -> Any:
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return tyro.cli(cls, args=args, prog=f"deleatur {verb}", config=(tyro.conf.AvoidSubcommands,), **how)
    except SystemExit as e:
        if not e.code:
            raise
        raise ConfigError(_in_one_line(stderr.getvalue(), verb)) from None


def _in_one_line(box: str, verb: str) -> str:
    """What tyro's box says, down to its first rule."""
    lines = [line.strip("│╭╰╮╯| ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    message = [line for line in lines[1:] if line.strip("─-+ ")]  # where there is no UTF-8 the box is of ASCII
    hint = next((i for i, line in enumerate(message) if line.startswith(("For full", "Argument helptext"))), len(message))
    said = " ".join(message[:hint])
    late = next((word for word in said.partition("Unrecognized options: ")[2].split() if Path(word).exists()), None)
    order = f"; {late} has to come first: deleatur {verb} {late} …" if late and verb in ("forget", "evaluate") else ""
    return f"{said}{order}; see deleatur {verb} --help"


def positional(args: list[str], *, flags: Sequence[str]) -> str | None:
    """The first positional argument, after options without a value."""
    for i, arg in enumerate(args):
        if not arg.startswith("-"):
            return args.pop(i)
        if arg not in flags:
            return None
    return None


def peek(args: list[str], option: str, table: dict[str, Any]) -> str | None:
    """An option's value, before the parser knows which settings there are."""
    values = [args[i + 1] for i, a in enumerate(args[:-1]) if a == option]
    values += [a.partition("=")[2] for a in args if a.startswith(f"{option}=")]
    if values and values[-1] not in table:
        raise ConfigError(
            f"{option} is {values[-1]!r}{nearest(values[-1], list(table))}, but must be one of {', '.join(table)}"
        )
    return values[-1] if values else None
