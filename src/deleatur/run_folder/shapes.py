"""JSON values checked against the type annotations that describe them, and made what those say."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, NotRequired, Union, cast, get_args, get_origin, get_type_hints, is_typeddict

from deleatur.errors import DataError

PLAIN = (bool, int, float, str, type(None))


def check_type(value: Any, hint: Any, where: str) -> None:
    """Refuse what is not of the type: a TypedDict, dataclass, dict, list, tuple, Literal, union, plain type or Any.

    Keys that a TypedDict or a dataclass does not name are let pass. Raises DataError with the place of what is wrong.
    """
    if hint is Any:
        return
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint) or is_dataclass(hint):
        _check_object(value, where)
        known, required = _fields(hint)
        if missing := [key for key in known if key in required and key not in value]:
            raise DataError(f"{where} has no {missing[0]!r}; the file must come from a run of this deleatur")
        for key in known.keys() & value.keys():
            check_type(value[key], known[key], f"{where} {key}")
    elif origin in (dict, Mapping):
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


def as_type(value: Any, hint: Any) -> Any:
    """A checked value with the dataclasses and tuples that its type has in place of objects and lists.

    Raises TypeError for a key that a dataclass does not have, and what the dataclass itself raises.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = _fields(hint)[0]
        return cast(Any, hint)(**{key: as_type(item, hints.get(key, Any)) for key, item in value.items()})
    if origin in (dict, Mapping):
        return {key: as_type(item, inner[1]) for key, item in value.items()}
    if origin is tuple:
        return tuple(value) if inner[0] in PLAIN else tuple(as_type(item, inner[0]) for item in value)
    if origin in (Union, types.UnionType) and isinstance(value, dict | list):
        return as_type(value, next(option for option in inner if option not in PLAIN))
    return value


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
    """The keys of a TypedDict or a dataclass with their types, and which of them must be there."""
    hints = get_type_hints(hint, include_extras=True)
    if is_dataclass(hint):
        bare = (f.name for f in fields(hint) if f.default is MISSING and f.default_factory is MISSING)
        return hints, frozenset(bare)
    plain = {key: get_args(h)[0] if get_origin(h) is NotRequired else h for key, h in hints.items()}
    return plain, frozenset(key for key, h in hints.items() if get_origin(h) is not NotRequired) & hint.__required_keys__
