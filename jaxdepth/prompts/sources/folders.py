"""Rows of a folder: a run of jaxdepth, or a dataset as Hugging Face's library or hub has it."""

import re
from collections.abc import Iterator
from pathlib import Path

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.files import read_json
from jaxdepth.prompts.sources.read_files import SUFFIXES, read_rows, split_name
from jaxdepth.prompts.sources.rows import Row

WHOLE = "all"  # the split of a folder without splits
RUN_FILES = ("run.json", "prompts.parquet")
_STATE, _SPLITS = "state.json", "dataset_dict.json"
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}(?:-[0-9a-f]{16})?")
_MAX_FOLDERS = 2  # between a dataset's folder and its files: a configuration, a split or `data`
# Text files beside the data of a hub's folder.
_NO_DATA = ("dataset_info", "dataset_infos", "state", "dataset_dict", "config", "requirements")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run of jaxdepth."""
    return all((folder / name).is_file() for name in RUN_FILES)


def find_folder(name: str) -> tuple[Path, str]:
    """The folder that a name begins with, and the split after it, if one is named.

    Raises:
        InputError: there is no such folder, or it has no such split.
    """
    path = Path(name)
    if path.is_dir():
        is_split = (path / _STATE).is_file() and (path.parent / _SPLITS).is_file()
        return (path.parent, path.name) if is_split else (path, "")
    hint = ""
    for folder in path.parents[:_MAX_FOLDERS]:
        if folder.is_dir() and folder != Path():
            splits, split = _splits_of(folder), path.relative_to(folder).as_posix()
            if split in splits:
                return folder, split
            hint = nearest(split, splits)
            break
    raise InputError(f"prompt file {name} does not exist (or is no file or folder){hint}")


def read_split(folder: Path, split: str, where: str) -> tuple[str, Iterator[Row]]:
    """The name and the rows of a split of a dataset's folder.

    Args:
        folder: saved by the datasets library, or with data files as on the hub.
        split: such as `test`, or `german/test` where there are several configurations; empty for
            the only one.
        where: names the folder in messages.

    Raises:
        InputError: the folder has no data, no such split, or several and none was named.
    """
    splits = _splits_of(folder)
    if not splits:
        raise InputError(
            f"{where} is a folder without prompts; expected a run of jaxdepth, a saved dataset, or "
            f"{', '.join(SUFFIXES)} files"
        )
    if not split and len(splits) > 1:
        raise InputError(
            f"{where} has the splits {listed(splits, 9)}: name one, such as {where}/{min(splits)}"
        )
    split = split or next(iter(splits))
    if split not in splits:
        raise InputError(
            f"{where} has no split {split}{nearest(split, splits)}; it has {listed(splits, 9)}"
        )
    files = splits[split]
    return split, (row for file in files for row in read_rows(file, str(file)))


def _splits_of(folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a folder."""
    if (folder / _SPLITS).is_file():
        names = read_json(folder / _SPLITS, "save the dataset again")
        names = names.get("splits") if isinstance(names, dict) else None
        if not isinstance(names, list) or not all(_is_name(name) for name in names):
            raise InputError(f"{folder / _SPLITS} does not list its splits: save it again")
        return {name: _saved(folder / name) for name in names}
    if (folder / _STATE).is_file():
        return {WHOLE: _saved(folder)}
    splits: dict[str, list[Path]] = {}
    depths = ("*", "*/*", "*/*/*")[: _MAX_FOLDERS + 1]
    for file in sorted(file for pattern in depths for file in folder.glob(pattern)):
        inner = file.relative_to(folder)
        stem, suffix = split_name(file)
        is_hidden = any(part.startswith((".", "_")) for part in inner.parts)
        if suffix not in SUFFIXES or is_hidden or stem in _NO_DATA or not file.is_file():
            continue
        shard = _SHARD.fullmatch(stem)
        within = [part for part in inner.parts[:-1] if part != "data"]
        is_number = stem.isdecimal()  # SPLIT/0000.parquet
        name = within or [WHOLE] if is_number else [*within, shard[1] if shard else stem]
        splits.setdefault("/".join(name), []).append(file)
    return splits


def _saved(folder: Path) -> list[Path]:
    """The files of one dataset that the datasets library saved, in their order."""
    state = read_json(folder / _STATE, "save the dataset again")
    files = state.get("_data_files") if isinstance(state, dict) else None
    names = [str(file.get("filename")) for file in files or () if isinstance(file, dict)]
    if not names or not all(map(_is_name, names)):
        raise InputError(f"{folder / _STATE} does not list its files: save the dataset again")
    if isinstance(state, dict) and state.get("_indices_data_files"):
        raise InputError(f"{folder} is saved as a selection of rows: save it again, flattened")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {listed(missing)}: save it again")
    return [folder / name for name in names]


def _is_name(name: object) -> bool:
    """Whether this is the name of a file right in a folder."""
    return isinstance(name, str) and bool(name) and Path(name).name == name and "\0" not in name
