"""The prompts in this package, and their splits."""

import json
from importlib.resources import files

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, Prompt

SCHEME = "builtin:"
# File and labels of each set. The pairs cycle through the categories, so any first N mix them.
BUILT_IN = {
    "pairs": ("pairs", (HARMFUL, HARMLESS)),
    "harmful": ("pairs", (HARMFUL,)),
    "lookalikes": ("lookalikes", (HARMLESS,)),
    "two_categories": ("two_categories", (HARMFUL, HARMLESS)),
    "ordinary": ("harmless", (HARMLESS,)),
    "control": ("control", (HARMLESS,)),
    "facts": ("facts", (HARMLESS,)),
}
# Splits of pairs and look-alikes for tuning, written in their files: a tuned model must not be
# measured on what it was trained on. Unseen are whole categories (of look-alikes: whole kinds), and
# whole forms of request, such as stories.
SPLITS = ("train", "validation", "test", "unseen", "unseen_forms")
_SPLIT_FILES = ("pairs", "lookalikes")


def read_built_in(name: str) -> list[Prompt]:
    """The prompts of a built-in set, such as `pairs` or `harmful/test`.

    Raises:
        InputError: there is no such set or split.
    """
    source = SCHEME + name
    name, slash, split = name.partition("/")
    if name not in BUILT_IN:
        raise InputError(f"no built-in prompts {name!r}{nearest(name, BUILT_IN)}")
    file, labels = BUILT_IN[name]
    if slash and (split not in SPLITS or file not in _SPLIT_FILES):
        names = listed([f"{b}/{s}" for b in ("pairs", "harmful") for s in SPLITS], 9)
        raise InputError(f"no built-in split {name}/{split}; there are {names}")
    rows = [row for row in _rows(file) if not slash or row["split"] == split]
    prompts = [p for n, row in enumerate(rows, 1) for p in _prompts_of(row, n, file, source)]
    return [p for p in prompts if p.label in labels]


def _prompts_of(row: dict, number: int, file: str, source: str) -> list[Prompt]:
    """The prompt of a row, or both of a pair."""
    category = row.get("category")
    if HARMFUL in row:
        pair = f"{file}-{row['pair_id']}"
        return [
            Prompt(f"{pair}-{label}", row[label], label, category, pair, source)
            for label in (HARMFUL, HARMLESS)
        ]
    given = row.get("prompt_id", f"{number:04d}")
    prompt_id = given if given.startswith(f"{file}-") else f"{file}-{given}"
    text = next(row[column] for column in ("prompt", "text", "question") if column in row)
    both = f"{file}-{row['pair_id']}" if "pair_id" in row else None  # control: of two categories
    return [Prompt(prompt_id, text, HARMLESS, category, both, source)]


def read_acts() -> dict[str, str]:
    """What each built-in prompt that could be refused asks for, as a phrase that begins in -ing."""
    acts: dict[str, str] = {}
    for row in (row for file in (*_SPLIT_FILES, "borderline") for row in _rows(file)):
        if HARMFUL in row:
            acts |= {row[HARMFUL]: row["act"], row[HARMLESS]: row["harmless_act"]}
        else:
            acts[row["text"]] = row["act"]
    return acts


def _rows(file: str) -> list[dict]:
    text = (files("jaxdepth") / "data" / f"{file}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.split("\n") if line.strip()]
