"""Records of files and settings that strangers may have written: of the declared types, or refused.

A record is declared as a TypedDict, or as a dataclass of settings; one checker is for all of them.
"""

import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxdepth.errors import InputError, listed

R = TypeVar("R")
_MAX_INT = 2**53  # what a float holds too; sizes and seeds are far smaller


def read_record_as(cls: type[R], value: object, where: str, remedy: str = "it is damaged") -> R:
    """The record `cls` from parsed JSON; keys that it does not declare are kept as they are.

    Args:
        cls: a TypedDict.
        value: what was parsed.
        where: the file, for messages.
        remedy: what the user should do, or what follows.

    Raises:
        InputError: a key is missing, or a value has another type; names the place.
    """
    try:
        return as_type(value, cls, where)
    except InputError as error:
        raise InputError(f"{error}: {remedy}") from None


def as_type(value: Any, expected: Any, where: str) -> Any:
    """A value as the type that a record or a setting declares.

    Integers are whole numbers up to 2^53 in size, floats are finite, and texts can be written as
    UTF-8. One item may stand for a tuple of strings or paths.

    Args:
        value: from JSON, TOML or a keyword argument.
        expected: the declared type.
        where: names the value in messages.

    Raises:
        InputError: it is of another type.
    """
    origin, options = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _as_one_of(value, options, where)
    if origin is Literal:
        if isinstance(value, str | int | None) and value in options:
            return value
        raise InputError(
            f"{where} = {_shown(value)}; expected one of {listed(map(repr, options), 9)}"
        )
    if expected is Any:
        return value
    if typing.is_typeddict(expected):
        return _as_typed_dict(value, expected, where)
    if origin is dict and isinstance(value, dict):
        items = value.items()
        return {_as_text(k, where): as_type(v, options[1], f"{where}.{k}") for k, v in items}
    if expected is dict and isinstance(value, dict):
        return value
    if origin in (tuple, list):
        if isinstance(value, str) and origin is tuple and options[0] in (str, Path):
            value = [value]
        if isinstance(value, list | tuple):
            return origin(as_type(item, options[0], where) for item in value)
    elif expected is Path:
        if isinstance(value, str | Path):
            return Path(_as_path(str(value), where))
    elif expected is str:
        if isinstance(value, str | Path):
            return _as_text(str(value), where)
    elif expected in (int, float):
        if type(value) is expected or (expected is float and type(value) is int):
            return _as_number(value, expected, where)
    elif type(value) is expected:
        return value
    raise InputError(f"{where} = {_shown(value)}; expected {_name(expected, origin)}")


def _as_one_of(value: Any, options: tuple, where: str) -> Any:
    """A value as the first of some types that it is of."""
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return as_type(value, option, where)
            except InputError as error:
                errors.append(error)
    raise errors[0]


def _as_typed_dict(value: Any, expected: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is {_shown(value)}, expected an object")
    missing = sorted(expected.__required_keys__ - set(value))
    if missing:
        raise InputError(f"{where} lacks {listed(missing)}")
    types_of = typing.get_type_hints(expected)
    checked = {k: as_type(value[k], t, f"{where}: {k}") for k, t in types_of.items() if k in value}
    return {**value, **checked}


def _as_number(value: int | float, expected: type, where: str) -> int | float:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where} = {value}; expected a finite number")
    if isinstance(value, int) and abs(value) > _MAX_INT:
        raise InputError(f"{where} is a number of {value.bit_length()} bits; expected at most 53")
    return expected(value)


def _as_text(value: Any, where: str) -> str:
    """A text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"{where} = {_shown(value)}; expected a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where} is no text of Unicode (it has half a pair)") from None
    return value


def _as_path(value: str, where: str) -> str:
    if "\0" in value:
        raise InputError(f"{where} = {_shown(value)}; a path holds no NUL")
    return value


def _shown(value: object) -> str:
    """The start of a value, however large it is."""
    if isinstance(value, int) and abs(value) > _MAX_INT:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple) and len(value) > 9:
        return f"a {type(value).__name__} of {len(value)}"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _name(expected: Any, origin: Any) -> str:
    kind = origin if origin is not None else expected
    names: dict[Any, str] = {
        tuple: "a list",
        list: "a list",
        dict: "an object",
        Path: "a string",
        str: "a string",
    }
    names |= {bool: "a bool", int: "a int", float: "a float"}
    return names.get(kind, str(kind))
