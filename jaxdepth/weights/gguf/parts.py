"""The files of a GGUF model: one file, or the parts that llama.cpp's `gguf-split` makes of it.

Parts are called NAME-00001-of-00003.gguf. Each has its number in `split.no`, counted from 0, and
the first has the metadata of the whole. Source: llama.cpp `tools/gguf-split`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as short  # values in a file may be long
from typing import Any

from jaxdepth.errors import InputError, listed

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def find_parts(file: Path) -> list[Path]:
    """All parts of the model that `file` is a part of, in order; most models are `file` alone.

    Raises:
        InputError: a part is missing, or a file's name has a number above the count of parts.
    """
    match = _PART.fullmatch(file.name)
    if match is None:
        return [file]
    stem, _, total = match.groups()
    present = {}
    for sibling in file.parent.iterdir():
        match = _PART.fullmatch(sibling.name)
        if match and match[1] == stem and match[3] == total:
            present[int(match[2])] = sibling
    numbers = range(1, int(total) + 1)
    extra = [present[n].name for n in sorted(present) if n not in numbers]
    if extra:
        raise InputError(f"{file.parent} has {listed(extra)}: there is no such part, remove it")
    missing = [f"{stem}-{n:05d}-of-{total}.gguf" for n in numbers if n not in present]
    if missing:
        raise InputError(f"{file.parent} lacks {listed(missing)}: fetch the missing parts")
    return [present[n] for n in numbers]


def check_parts(
    files: Sequence[Path], fields: Sequence[Mapping[str, Any]], tensors: Sequence[int]
) -> None:
    """Compare the metadata of the parts with their names.

    Args:
        files: the parts, in order.
        fields: the metadata of each.
        tensors: how many tensors each has.

    Raises:
        InputError: a part is of another model, or a file was renamed.
    """
    count = len(files)
    for file, metadata in zip(files, fields, strict=True):
        for key in ("split.no", "split.count", "split.tensors.count"):
            value = metadata.get(key, 0)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(
                    f"{file}: {key} is {short(value)}, expected a number: fetch it again"
                )
    total = fields[0].get("split.tensors.count")
    for number, (file, metadata) in enumerate(zip(files, fields, strict=True), start=1):
        own_number = metadata.get("split.no", 0) + 1
        own_count = metadata.get("split.count", 1)
        if (own_number, own_count) != (number, count):
            raise InputError(
                f"{file} says that it is part {own_number} of {own_count}, but by its name it is "
                f"{number} of {count}: give it its own name, NAME-{own_number:05d}-of-"
                f"{own_count:05d}.gguf, beside the others"
            )
        if metadata.get("split.tensors.count") != total:
            raise InputError(
                f"{file} is of a model of {metadata.get('split.tensors.count')} tensors, the first "
                f"part of one of {total}: fetch the parts of one model"
            )
    if total is not None and sum(tensors) != total:
        raise InputError(
            f"{files[0]}: the {count} parts hold {sum(tensors)} tensors, expected {total}: "
            "fetch the parts of one model"
        )
