"""Rows of a source before it is known which column holds what."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jaxdepth.errors import InputError, listed


class Row(NamedTuple):
    """One row, object or line of a source."""

    place: str  # where it is, for messages: "mine.csv, row 3"
    values: Mapping[str, Any]  # by column, in lower case


def make_row(place: str, items: Iterable[tuple[object, Any]]) -> Row:
    """A row of columns and values; names of columns lose their case and the space around them.

    Raises:
        InputError: two columns have one name.
    """
    pairs = [(str(name).strip().lower(), value) for name, value in items]
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"{place}: the column {listed(twice)} is there twice: rename one")
    return Row(place, values)


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN, white space, or an empty list."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or value == {} or value != value


def may_be_prompt(value: object) -> bool:
    """Whether a cell could be a part of a prompt: text of several words, or something nested."""
    if isinstance(value, str):
        return len(value.split(None, 2)) > 2
    return isinstance(value, list | dict) and not is_empty(value)


def columns_of(rows: Iterable[Row]) -> list[str]:
    """All columns that some row has, in the order in which they first come."""
    return list(dict.fromkeys(name for row in rows for name in row.values))
