"""`jaxdepth inspect`: what lies at a path, told from its files; no weights are read.

What files say is a stranger's: nothing of it reaches the terminal but as visible text.
"""

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxdepth.errors import InputError, visible
from jaxdepth.study.run import RUN_FILE
from jaxdepth.weights.checkpoint import MANIFEST

_WIDTH = 84  # of a row's text
_NAMES = 14  # of its name


class Seen(NamedTuple):
    """What something is, and what there is to say of it: names and texts, as files have them."""

    what: str
    rows: list[tuple[str, str]]


def inspect(path: str | Path) -> Seen:
    """What lies at a path: a checkpoint, a run, an adapter, or weights that are not converted.

    Raises:
        InputError: it is none of these, or is damaged.
    """
    from jaxdepth.study import inspect_model, inspect_run

    path = Path(path)
    if (path / MANIFEST).is_file():
        return inspect_model.checkpoint_seen(path)
    if (path / RUN_FILE).is_file():
        return inspect_run.run_seen(path)
    if (path / "config.json").is_file() or _is_file(path, ".gguf"):
        return inspect_model.source_seen(path)
    if _is_file(path, ".safetensors"):
        return inspect_model.adapter_seen(path)
    there = "is nothing to inspect" if path.exists() else "does not exist"
    raise InputError(
        f"{path} {there}: expected a checkpoint, a run directory, an adapter (.safetensors), a "
        "Hugging Face folder or a .gguf file"
    )


def _is_file(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix and path.is_file()


def lines(path: str | Path, seen: Seen) -> list[str]:
    """The lines that say it, for a terminal."""
    found = [f"{visible(str(path))}: {visible(seen.what)}"]
    for name, text in seen.rows:
        wrapped = textwrap.wrap(
            visible(text), _WIDTH, break_long_words=False, break_on_hyphens=False
        )
        for number, part in enumerate(wrapped or [""]):
            found.append(f"  {visible(name) if number == 0 else '':<{_NAMES}} {part}".rstrip())
    return found


def print_seen(path: str | Path) -> None:
    """Prints what lies at a path; raises InputError as `inspect` does."""
    print("\n".join(lines(path, inspect(path))))


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
