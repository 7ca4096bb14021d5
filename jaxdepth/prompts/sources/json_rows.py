"""Rows of JSON and JSON Lines files."""

import json
from collections.abc import Iterator
from typing import Any

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.sources.rows import Row, make_row


def read_json_lines(text: str, where: str) -> Iterator[Row]:
    """One object or string a line.

    Raises:
        InputError: a line is neither, or no JSON.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{where}, line {number}"
            yield _row(_parse(line, place), place)


def read_json_list(text: str, where: str) -> Iterator[Row]:
    """A list of objects or strings, by itself or as the only list of an object; or JSON Lines.

    Raises:
        InputError: it is none of these, or no JSON.
    """
    if not text.strip():
        return
    try:
        content = _parse(text, where)
    except InputError:
        first = text.lstrip().partition("\n")[0]
        if not _is_json(first):
            raise
        yield from read_json_lines(text, where)
        return
    for number, item in enumerate(_items(content, where), start=1):
        place = f"{where}, row {number}"
        if isinstance(item, dict) and set(item) >= {"row_idx", "row"}:  # the hub's dataset viewer
            item = item["row"]
        yield _row(item, place)


def _items(content: Any, where: str) -> list:
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise InputError(f"{where} holds a {type(content).__name__}, expected a list of prompts")
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    of_objects = {name: value for name, value in lists.items() if _has_objects(value)}
    is_even = len({len(value) for value in lists.values()}) == 1
    if len(lists) == len(content) > 1 and not of_objects and is_even:  # one list a column
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    options = of_objects or lists
    if len(options) == 1:
        return next(iter(options.values()))
    if options:
        raise InputError(f"{where} holds several lists ({listed(options)}): put one into a file")
    raise InputError(f"{where} holds an object, expected a list of prompts")


def _has_objects(items: list) -> bool:
    return any(isinstance(item, dict) for item in items)


def _row(item: Any, place: str) -> Row:
    if isinstance(item, str):
        return Row(place, {"prompt": item})
    if not isinstance(item, dict):
        raise InputError(f"{place} holds a {type(item).__name__} where a prompt was expected")
    return make_row(place, item.items())


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error})") from None


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | str)
    except (ValueError, RecursionError):
        return False
