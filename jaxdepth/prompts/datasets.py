"""Prompts with labels: the built-in pairs, and readers for the published sets.

A file is recognised by its columns, not by its name: AdvBench (goal, target), HarmBench
(Behavior, ContextString), JailbreakBench (Goal, Behavior, Category), XSTest (prompt, type, label),
the refusal_direction splits (instruction, category), and our own (harmful, harmless).
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.files import read_text
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, Prompt, prompts_digest
from jaxdepth.records import as_type

__all__ = ["HARMFUL", "HARMLESS", "Prompt", "prompts_digest", "read_acts", "read_prompts"]

# File and labels of each set. The pairs cycle through the categories, so any first N mix them.
BUILT_IN = {
    "pairs": ("pairs.jsonl", (HARMFUL, HARMLESS)),
    "harmful": ("pairs.jsonl", (HARMFUL,)),
    "lookalikes": ("lookalikes.jsonl", (HARMLESS,)),
    "two_categories": ("two_categories.jsonl", (HARMFUL, HARMLESS)),
    "ordinary": ("harmless.jsonl", (HARMLESS,)),
    "control": ("control.jsonl", (HARMLESS,)),
    "facts": ("facts.jsonl", (HARMLESS,)),
}
# Splits of pairs and look-alikes for tuning, written in their files: a tuned model must not be
# measured on what it was trained on. Unseen are whole categories (of look-alikes: whole kinds), and
# whole forms of request, such as stories.
TRAIN, VALIDATION, TEST, UNSEEN = "train", "validation", "test", "unseen"
UNSEEN_FORMS = "unseen_forms"
SPLITS = (TRAIN, VALIDATION, TEST, UNSEEN, UNSEEN_FORMS)
_SPLIT_FILES = ("pairs.jsonl", "lookalikes.jsonl")
_FIRST = re.compile(r"^(.+)\[:(\d+)\]$")

# Columns that may have the prompt, in order of preference; compared without regard to case.
_TEXT_COLUMNS = ("prompt", "instruction", "goal", "text", "question", "behavior")
_ID_COLUMNS = ("prompt_id", "id", "behaviorid", "index")
_CATEGORY_COLUMNS = ("category", "type", "semanticcategory")
_LABELS = {"harmful": HARMFUL, "unsafe": HARMFUL, "harmless": HARMLESS, "safe": HARMLESS}
_LABELS |= {"benign": HARMLESS}
# Words of a file's name that give its label when no column does.
_NAME_LABELS = (
    (re.compile(r"harmless|benign|alpaca"), HARMLESS),
    (re.compile(r"harmful|advbench|harmbench|jailbreakbench|malicious|strongreject"), HARMFUL),
)


def read_prompts(names: Iterable[str]) -> list[Prompt]:
    """Read the prompts of several sources, in their order.

    Args:
        names: each `builtin:pairs`, `builtin:harmful`, `builtin:lookalikes` (harmless prompts that
            look harmful), `builtin:two_categories` (pairs whose harmful prompt is of two
            categories), `builtin:ordinary`, `builtin:control` (two categories of harmless
            requests), `builtin:facts` (short questions), or a .jsonl, .json, .csv or .txt file.
            `/train`, `/validation`, `/test`, `/unseen` or `/unseen_forms` behind built-in pairs or
            look-alikes selects that split. A label in front of a file, as in `harmless=my.csv`, is
            that of all its prompts. `[:N]` at the end takes the first N prompts of a source.

    Raises:
        InputError: a source does not exist, has no prompts, or gives no labels.
    """
    prompts: list[Prompt] = []
    for name in names:
        prefix, equals, rest = name.partition("=")
        label = _LABELS.get(prefix.lower()) if equals else None
        source = rest if label else name
        first = _FIRST.match(source)
        source, count = (first[1], int(first[2])) if first else (source, None)
        prompts += _read_one(source, label)[:count]
    if not prompts:
        raise InputError("no prompts: name at least one source, such as builtin:pairs")
    counts = Counter(p.prompt_id for p in prompts)
    repeated = [prompt_id for prompt_id, count in counts.items() if count > 1]
    if repeated:
        raise InputError(f"prompt ids repeat: {listed(repeated)}; give each prompt its own id")
    return prompts


def read_acts() -> dict[str, str]:
    """What each built-in prompt that could be refused asks for, as a phrase that begins in -ing."""
    acts: dict[str, str] = {}
    for row in (row for file in (*_SPLIT_FILES, "borderline.jsonl") for row in _built_in(file)):
        if HARMFUL in row:
            acts |= {row[HARMFUL]: row["act"], row[HARMLESS]: row["harmless_act"]}
        else:
            acts[row["text"]] = row["act"]
    return acts


def _built_in(file: str) -> list[dict]:
    return _jsonl((files("jaxdepth") / "data" / file).read_text("utf-8"), file)


def _read_one(name: str, label: str | None) -> list[Prompt]:
    scheme, _, built_in = name.partition(":")
    if scheme == "builtin":
        built_in, slash, split = built_in.partition("/")
        if built_in not in BUILT_IN:
            raise InputError(f"no built-in prompts {built_in!r}{nearest(built_in, BUILT_IN)}")
        file, labels = BUILT_IN[built_in]
        if slash and (split not in SPLITS or file not in _SPLIT_FILES):
            names = listed([f"{b}/{s}" for b in ("pairs", "harmful") for s in SPLITS], 9)
            raise InputError(f"no built-in split {built_in}/{split}; there are {names}")
        rows = [r for r in _built_in(file) if not slash or r["split"] == split]
        prompts = _prompts_of(rows, name, file.removesuffix(".jsonl"), HARMLESS)
        return [p for p in prompts if p.label in labels]
    path = Path(name)
    if not path.is_file():
        raise InputError(f"prompt file {name} does not exist (or is no file)")
    text = read_text(path, "utf-8-sig")
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".txt": _txt}
    if path.suffix.lower() not in readers:
        raise InputError(f"{name}: expected a {', '.join(readers)} file")
    rows = readers[path.suffix.lower()](text, name)
    return _prompts_of(rows, path.name, path.stem, label)


def _prompts_of(rows: list[dict], source: str, stem: str, label: str | None) -> list[Prompt]:
    if not rows:
        raise InputError(f"{source} holds no prompts: expected one a line or row")
    prompts = []
    for number, row in enumerate(rows, start=1):
        row = {str(k).strip().lower(): v for k, v in row.items() if k is not None}
        where = f"{source}, row {number}"
        given = _name(row, _ID_COLUMNS, where) or f"{number:04d}"
        prompt_id = given if given.startswith(f"{stem}-") else f"{stem}-{given}"
        category = _name(row, _CATEGORY_COLUMNS, where)
        pair_id = _name(row, ("pair_id",), where)
        if HARMFUL in row and HARMLESS in row:
            both = f"{stem}-{pair_id or f'{number:04d}'}"
            prompts += [
                Prompt(f"{both}-{kind}", _text(row, kind, where), kind, category, both, source)
                for kind in (HARMFUL, HARMLESS)
            ]
            continue
        column = next((c for c in _TEXT_COLUMNS if c in row), None)
        if column is None:
            raise InputError(
                f"{source} has the columns {listed(row, 6)}, none of which holds prompts; expected "
                f"one of {', '.join(_TEXT_COLUMNS)}, or both {HARMFUL} and {HARMLESS}"
            )
        text = _text(row, column, where)
        if row.get("contextstring"):  # HarmBench puts the context before the behaviour
            text = f"{_text(row, 'contextstring', where)}\n\n---\n\n{text}"
        pair = f"{stem}-{pair_id}" if pair_id else None
        row_label = label or _label(row, stem, where)
        prompts.append(Prompt(prompt_id, text, row_label, category, pair, source))
    return prompts


def _text(row: Mapping, column: str, where: str) -> str:
    text = row[column]
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: the prompt in column {column} is empty")
    return as_type(text, str, f"{where}: {column}")


def _name(row: Mapping, columns: Iterable[str], where: str) -> str | None:
    """The text, or the whole number, of the first of these columns that has one."""
    column = next((c for c in columns if row.get(c) not in (None, "", [], {})), None)
    if column is None:
        return None
    value = row[column]
    return str(as_type(value, int if type(value) is int else str, f"{where}: {column}"))


def _label(row: Mapping, stem: str, where: str) -> str:
    """The label by its column, else by the published set that columns or file name show."""
    if row.get("label") not in (None, ""):
        label = _LABELS.get(str(row["label"]).strip().lower())
        if label is None:
            names = listed(_LABELS, 9)
            raise InputError(f"{where}: label {row['label']!r}; expected one of {names}")
        return label
    if "type" in row and "focus" in row:  # early XSTest: the unsafe ones are the contrasts
        return HARMFUL if str(row["type"]).startswith("contrast_") else HARMLESS
    for pattern, label in _NAME_LABELS:
        if pattern.search(stem.lower()):
            return label
    if {"goal", "target"} <= set(row) or "behaviorid" in row:  # AdvBench, HarmBench
        return HARMFUL
    raise InputError(
        f"{where}: no label; add a label column, or write harmful=FILE or harmless=FILE"
    )


def _jsonl(text: str, source: str) -> list[dict]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows += _as_rows([_parse(line, f"{source}, line {number}")], source)
    return rows


def _json(text: str, source: str) -> list[dict]:
    if not text.strip():
        return []
    content = _parse(text, source)
    if not isinstance(content, list):
        raise InputError(f"{source} holds a {type(content).__name__}, expected a list of prompts")
    return _as_rows(content, source)


def _parse(text: str, where: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON ({error})") from None


def _as_rows(items: list, source: str) -> list[dict]:
    rows = [{"prompt": item} if isinstance(item, str) else item for item in items]
    bad = next((type(r).__name__ for r in rows if not isinstance(r, dict)), None)
    if bad:
        raise InputError(f"{source} holds a {bad} where a prompt was expected")
    return rows


def _csv(text: str, source: str) -> list[dict]:
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{source} is not valid CSV ({error})") from None


def _txt(text: str, source: str) -> list[dict]:
    return [{"prompt": line} for line in text.split("\n") if line.strip()]
