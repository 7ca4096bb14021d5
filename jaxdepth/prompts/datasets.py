"""Read prompts: the built-in sets, files as people have them, folders, and datasets of the hub.

A file is recognised by its columns, not by its name; docs/how-to/own-prompts.md has the table of
what becomes what.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.prompts.prompt import HARMFUL, HARMLESS, UNLABELLED, Prompt, prompts_digest
from jaxdepth.prompts.sources import builtin, hub
from jaxdepth.prompts.sources.builtin import SPLITS, read_acts, read_built_in
from jaxdepth.prompts.sources.columns import parse_columns
from jaxdepth.prompts.sources.folders import RUN_FILES, WHOLE, find_folder, is_run, read_split
from jaxdepth.prompts.sources.labels import LABEL_WORDS
from jaxdepth.prompts.sources.read_files import read_rows, split_name
from jaxdepth.prompts.sources.rows import Row, columns_of
from jaxdepth.prompts.sources.to_prompts import Source, to_prompts

__all__ = [
    "HARMFUL", "HARMLESS", "SPLITS", "Prompt", "prompts_digest", "read_acts", "read_prompts",
]  # fmt: skip

_FIRST = re.compile(r"(.+)\[:(\d+)\]")
_PREFIXES = {**LABEL_WORDS, UNLABELLED: None, "unlabeled": None}


class _Name(NamedTuple):
    """A source as the user names it."""

    name: str  # without label and number
    prefix: str  # the label, in lower case; empty for none
    first: int | None  # how many prompts are taken


class _Opened(NamedTuple):
    """A source that is no built-in set, before its rows are read."""

    path: Path  # that tells sources of one name apart
    rows: Iterator[Row]
    name: str
    source: str
    stem: str
    named: str


def read_prompts(
    names: Iterable[str], columns: Iterable[str] = (), *, needs_columns: bool = True
) -> list[Prompt]:
    """Read the prompts of several sources, in their order.

    Args:
        names: each `builtin:pairs`, `builtin:harmful`, `builtin:lookalikes` (harmless prompts that
            look harmful), `builtin:two_categories` (pairs whose harmful prompt is of two
            categories), `builtin:ordinary`, `builtin:control` (two categories of harmless
            requests), `builtin:facts` (short questions); a file (.csv, .tsv, .jsonl, .ndjson,
            .json, .txt, .parquet, .arrow, each also as .gz); the folder of a run or of a dataset;
            or `hf:OWNER/NAME`. `/train`, `/validation`, `/test`, `/unseen` or `/unseen_forms`
            behind built-in pairs or look-alikes, and `/SPLIT` behind a folder or an id, selects a
            split. A label in front of a file, as in `harmless=my.csv`, is that of all its prompts;
            `unlabelled=` says that they have none. `[:N]` at the end takes the first N prompts.
        columns: which columns of files hold what; see `parse_columns`. A file that has none of
            them is read by itself.
        needs_columns: whether each of these columns must be in some file, if there are files.

    Raises:
        InputError: a source does not exist, has no prompts, or something in it is not understood.
    """
    said, sources = parse_columns(columns), [_parse(name) for name in names]
    opened = [None if _is_built_in(s) else _open(s) for s in sources]
    stems = _tell_apart([one for one in opened if one is not None])
    rows_of = [
        [] if one is None else list(islice(one.rows, source.first))
        for source, one in zip(sources, opened, strict=True)
    ]
    there = list(dict.fromkeys(name for rows in rows_of for name in columns_of(rows)))
    unused = sorted(said.named.difference(there))
    if unused and needs_columns and stems:
        raise InputError(
            f"--columns names {listed(unused)}, which no file has{nearest(unused[0], there)}; "
            f"there are {listed(there, 9)}"
        )
    read: list[tuple[Prompt, str]] = []
    for source, one, rows in zip(sources, opened, rows_of, strict=True):
        if one is None:
            built_in = read_built_in(source.name.removeprefix(builtin.SCHEME))
            read += [(prompt, prompt.source) for prompt in built_in[: source.first]]
            continue
        stem, shown = stems[one.path]
        label = _PREFIXES.get(source.prefix)
        is_labelled = label is not None or not source.prefix
        whole = Source(rows, one.name, shown, stem, one.named, label, is_labelled)
        read += to_prompts(whole, said)[: source.first]
    if not read:
        raise InputError("no prompts: name at least one source, such as builtin:pairs")
    _check_ids(read)
    return [prompt for prompt, _ in read]


def _parse(given: str) -> _Name:
    prefix, equals, rest = given.partition("=")
    is_label = bool(equals) and prefix.strip().lower() in _PREFIXES
    name, prefix = (rest, prefix.strip().lower()) if is_label else (given, "")
    first = _FIRST.fullmatch(name)
    return _Name(first[1], prefix, int(first[2])) if first else _Name(name, prefix, None)


def _is_built_in(source: _Name) -> bool:
    return source.name.startswith(builtin.SCHEME)


def _open(source: _Name) -> _Opened:
    name = source.name
    if name.startswith(hub.SCHEME):
        full, rows = hub.read_hub(name.removeprefix(hub.SCHEME))
        shown, stem = hub.SCHEME + full, full.replace("/", "-")
        return _Opened(Path(shown), rows, name, shown, stem, full)
    path = Path(name)
    if not path.is_file():
        folder, split = find_folder(name)
        if not is_run(folder):
            split, rows = read_split(folder, split, str(folder))
            parts = [folder.resolve().name, *([] if split == WHOLE else split.split("/"))]
            shown, stem = "/".join(parts), "-".join(parts)
            return _Opened(folder.resolve() / split, rows, name, shown, stem, " ".join(parts))
        path = folder / RUN_FILES[1]
    stem = split_name(path)[0]
    return _Opened(path.resolve(), read_rows(path, str(path)), str(path), path.name, stem, stem)


def _tell_apart(opened: Sequence[_Opened]) -> dict[Path, tuple[str, str]]:
    """The start of the ids and the name of every source, by its path.

    Where two have the same, folders are put in front until they differ; in one folder the endings.
    """
    by_path = {one.path: one for one in opened}
    named = {}
    for path, one in by_path.items():
        rivals = [p for p, other in by_path.items() if other.stem == one.stem and p != path]
        stem, shown = one.stem, one.source
        if any(p.parent == path.parent for p in rivals):
            stem, shown = path.name, path.name
            rivals = [p for p in rivals if p.name == path.name]
        parents = list(path.parts[:-1])
        while rivals and parents:
            folder = parents.pop()
            stem, shown = f"{folder}-{stem}", f"{folder}/{shown}"
            depth = len(path.parts) - len(parents)
            rivals = [p for p in rivals if p.parts[-depth:-1] == path.parts[-depth:-1]]
        named[path] = stem, shown
    return named


def _check_ids(read: Iterable[tuple[Prompt, str]]) -> None:
    places: dict[str, str] = {}
    for prompt, place in read:
        if prompt.prompt_id in places:
            raise InputError(
                f"prompt ids repeat: {prompt.prompt_id} is in {places[prompt.prompt_id]} and in "
                f"{place}; give each prompt its own id"
            )
        places[prompt.prompt_id] = place
