"""The prompts of a study: read, limited, and with the system prompt and prefill of the settings."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import read_text
from jaxdepth.prompts.batches import limit_prompts
from jaxdepth.prompts.datasets import Prompt, read_prompts
from jaxdepth.prompts.prompt import prompt_of_row
from jaxdepth.study.common_tables import prompt_rows
from jaxdepth.study.settings import Prompts

# What is meant as the name of a file: one word with a folder, or with an ending.
_FILE_NAME = re.compile(r"\S*/\S*|\S+\.(txt|md|jinja|json|toml)")


def read_study_prompts(settings: Prompts, sources: Sequence[str] | None = None) -> list[Prompt]:
    """Read prompts; those without a system prompt or prefill get that of the settings.

    Args:
        settings: which prompts, and how many.
        sources: other sources in place of theirs.

    Raises:
        InputError: as `read_prompts`, `limit_prompts` and `system_text`.
    """
    system = system_text(settings.system)
    is_own = sources is None
    names = settings.prompts if sources is None else sources
    read = read_prompts(names, settings.columns, needs_columns=is_own)
    prompts = limit_prompts(read, settings.limit)
    return [
        replace(
            prompt,
            system=system if prompt.system is None else prompt.system,
            prefill=(settings.prefill or None) if prompt.prefill is None else prompt.prefill,
        )
        for prompt in prompts
    ]


def read_prompts_of(
    run_path: str | Path, prompt_ids: Sequence[str] | None = None
) -> dict[str, Prompt]:
    """The prompts of a finished run by their ids: all, or those that are named.

    Raises:
        InputError: the run is not finished, has none of an id, or is damaged.
    """
    wanted = None if prompt_ids is None else list(dict.fromkeys(prompt_ids))
    rows = prompt_rows(run_path, wanted).reset_index().astype(object)
    rows = rows.where(rows.notna(), None)
    return {row["prompt_id"]: prompt_of_row(row) for row in rows.to_dict("records")}


def system_text(given: str | None) -> str | None:
    """The system prompt that a setting gives: the text of the file of that name, or the text.

    A line break at the end of a file is no part of it.

    Raises:
        InputError: the file cannot be read, or it looks like the name of a file and is none.
    """
    if given is None:
        return None
    try:
        is_file = Path(given).is_file()
    except (OSError, ValueError):  # too long for a name
        is_file = False
    if is_file:
        return read_text(Path(given), "utf-8-sig").removesuffix("\n")
    if _FILE_NAME.fullmatch(given):
        raise InputError(f"--system {given}: there is no such file; a text has white space in it")
    return given
