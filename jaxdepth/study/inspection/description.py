"""The description of a file or folder, and how its values are written."""

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

Rows = list[tuple[str, str]]


class Description(NamedTuple):
    """What is at a path. All texts are as the files have them, not yet safe to print."""

    kind: str  # such as "a checkpoint of jaxdepth"
    rows: Rows  # names and texts; an empty name continues the row before it


def truncate(text: str, max_length: int = 60) -> str:
    """A text, or its beginning if it is longer."""
    return text if len(text) <= max_length else text[: max_length - 3] + "..."


def format_values(values: Mapping) -> str:
    """Settings or versions on one line: without those that are not set, digests shortened."""
    is_set = {n: v for n, v in values.items() if v is not False and v not in (None, "", [])}
    return ", ".join(f"{name} {_format_value(value)}" for name, value in is_set.items())


def _format_value(value) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else truncate(text, 40)


def format_bytes(count: int) -> str:
    """A number of bytes to three digits: `2.52 GB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * size:  # 999.5 rounds to the next unit
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def format_count(count: int, noun: str) -> str:
    """A number of things: `1 layer`, `2 layers`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def name_first(name: str, texts: list[str]) -> Rows:
    """Rows of texts, the first of which has a name."""
    return [(name if number == 0 else "", text) for number, text in enumerate(texts)]
