"""Describe what is at a path from its files; no weights are read.

Files may be a stranger's: everything is escaped before it is printed.
"""

import textwrap
from pathlib import Path

from jaxdepth.errors import InputError, visible
from jaxdepth.study.inspection.adapters import describe_adapter, describe_peft, is_peft_folder
from jaxdepth.study.inspection.description import Description
from jaxdepth.study.inspection.models import describe_checkpoint, describe_source
from jaxdepth.study.inspection.runs import describe_run
from jaxdepth.study.run_directory import RUN_FILE
from jaxdepth.weights.adapter import find_adapter
from jaxdepth.weights.checkpoint import MANIFEST
from jaxdepth.weights.huggingface.mistral_params import is_mistral_format

_TEXT_WIDTH, _NAME_WIDTH = 84, 14


def inspect(path: str | Path) -> Description:
    """Describe a checkpoint, a run, an adapter, or weights that are not converted.

    Raises:
        InputError: it is none of these, or is damaged.
    """
    if str(path).startswith("builtin:"):
        return describe_adapter(find_adapter(str(path)))
    path = Path(path)
    if (path / MANIFEST).is_file():
        return describe_checkpoint(path)
    if (path / RUN_FILE).is_file():
        return describe_run(path)
    if is_peft_folder(path):
        return describe_peft(path)
    if (path / "config.json").is_file() or is_mistral_format(path) or _is_file(path, ".gguf"):
        return describe_source(path)
    if _is_file(path, ".safetensors"):
        return describe_adapter(path)
    problem = "is nothing to inspect" if path.exists() else "does not exist"
    raise InputError(
        f"{path} {problem}: expected a checkpoint, a run directory, an adapter (.safetensors, or a "
        "PEFT folder), a Hugging Face folder or a .gguf file"
    )


def _is_file(path: Path, suffix: str) -> bool:
    return path.suffix.lower() == suffix and path.is_file()


def format_lines(path: str | Path, description: Description) -> list[str]:
    """The lines of a description for a terminal, escaped and wrapped."""
    lines = [f"{visible(str(path))}: {visible(description.kind)}"]
    for name, text in description.rows:
        wrapped = textwrap.wrap(
            visible(text), _TEXT_WIDTH, break_long_words=False, break_on_hyphens=False
        )
        for number, part in enumerate(wrapped or [""]):
            shown = visible(name) if number == 0 else ""
            lines.append(f"  {shown:<{_NAME_WIDTH}} {part}".rstrip())
    return lines


def print_description(path: str | Path) -> None:
    """Print what is at a path; raise InputError as `inspect` does."""
    print("\n".join(format_lines(path, inspect(path))))
