"""What was seen of a path, and how it is told."""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple


class Seen(NamedTuple):
    """What something is, and what there is to say of it: names and texts, as files have them."""

    what: str
    rows: list[tuple[str, str]]


def short(text: str, most: int = 60) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 3] + "..."


def told(values: Mapping) -> str:
    """Settings or versions in one text: what is not set is left out, digests are cut."""
    said = {n: v for n, v in values.items() if v is not False and v not in (None, "", [])}
    return ", ".join(f"{name} {_value(value)}" for name, value in said.items())


def _value(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else short(text, 40)


def size(count: int) -> str:
    """A number of bytes in words."""
    for unit, of in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * of:  # what rounds to it
            return f"{count / of:.3g} {unit}"
    return f"{count} bytes"


def counted(count: int, what: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
