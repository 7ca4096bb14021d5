"""`jaxdepth inspect`: what lies at a path, told from its files; no weights are read.

What files say is a stranger's: nothing of it reaches the terminal but as visible text.
"""

import textwrap
from pathlib import Path

from jaxdepth.errors import InputError, visible
from jaxdepth.study.inspection.seen import Seen
from jaxdepth.study.run_directory import RUN_FILE
from jaxdepth.weights.checkpoint import MANIFEST

_WIDTH = 84  # of a row's text
_NAMES = 14  # of its name


def inspect(path: str | Path) -> Seen:
    """What lies at a path: a checkpoint, a run, an adapter, or weights that are not converted.

    Raises:
        InputError: it is none of these, or is damaged.
    """
    from jaxdepth.study.inspection import models as inspect_model
    from jaxdepth.study.inspection import runs as inspect_run

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
