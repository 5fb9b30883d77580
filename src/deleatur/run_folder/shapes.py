"""JSON values checked against the type annotations that describe them."""

from __future__ import annotations

import types
from functools import cache
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from deleatur.errors import DataError


def check_type(value: Any, hint: Any, where: str) -> None:
    """Refuse what is not of the type: a TypedDict, dict, list, tuple of a fixed length, Literal, union, plain type or Any.

    Keys that a TypedDict does not name are let pass. Raises DataError with the place of what is wrong.
    """
    if hint is Any:
        return
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint):
        _check_object(value, where)
        fields, required = _fields(hint)
        if missing := [key for key in fields if key in required and key not in value]:
            raise DataError(f"{where} has no {missing[0]!r}; the file must come from a run of this deleatur")
        for key in fields.keys() & value.keys():
            check_type(value[key], fields[key], f"{where} {key}")
    elif origin is dict:
        _check_object(value, where)
        for key in value:
            check_type(value[key], inner[1], f"{where} {key}")
    elif origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise DataError(f"{where} is {value!r:.60}, but must be a list")
        for number, item in enumerate(value, start=1):
            check_type(item, inner[0], f"{where} {number}")
    elif origin is Literal:
        if value not in inner:
            raise DataError(f"{where} is {value!r:.60}, but must be one of {', '.join(map(repr, inner))}")
    else:
        _check_plain(value, hint, where)


def _check_plain(value: Any, hint: Any, where: str) -> None:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = tuple(option for option in options if isinstance(option, type) and not is_typeddict(option))
    structured = [option for option in options if option not in plain]
    if isinstance(value, plain) or (float in plain and isinstance(value, int)):
        return
    if structured and isinstance(value, dict | list):
        check_type(value, structured[0], where)
        return
    names = dict.fromkeys(["int", "float"] if float in plain else [])
    names |= dict.fromkeys(option.__name__ for option in plain)
    raise DataError(f"{where} is {value!r:.60}, but must be {' or '.join(names) or 'an object'}")


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{where} is {value!r:.60}, but must be an object")


@cache
def _fields(hint: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The keys of a TypedDict with their types, and which of them must be there."""
    hints = get_type_hints(hint, include_extras=True)
    plain = {key: get_args(h)[0] if get_origin(h) is NotRequired else h for key, h in hints.items()}
    return plain, frozenset(key for key, h in hints.items() if get_origin(h) is not NotRequired) & hint.__required_keys__
