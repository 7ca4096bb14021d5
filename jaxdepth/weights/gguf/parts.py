"""The files of a GGUF model: one, or the parts that llama.cpp's `gguf-split` makes of it.

Parts are called NAME-00001-of-00003.gguf; each says which it is in `split.no`, counted from 0, and
the first has the metadata of all. Source: llama.cpp `tools/gguf-split`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdepth.errors import InputError, listed

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE | re.DOTALL)


def find_parts(file: Path) -> list[Path]:
    """All parts of the model that `file` is a part of, by their names: `file` alone for most.

    Raises:
        InputError: a part is missing, or one has a number that no part can have.
    """
    called = _PART.fullmatch(file.name)
    if called is None:
        return [file]
    stem, _, total = called.groups()
    there = {}
    for other in file.parent.iterdir():
        like = _PART.fullmatch(other.name)
        if like and like[1] == stem and like[3] == total:
            there[int(like[2])] = other
    numbers = range(1, int(total) + 1)
    extra = [there[n].name for n in sorted(there) if n not in numbers]
    if extra:
        raise InputError(f"{file.parent} has {listed(extra)}: there is no such part, remove it")
    missing = [f"{stem}-{n:05d}-of-{total}.gguf" for n in numbers if n not in there]
    if missing:
        raise InputError(f"{file.parent} lacks {listed(missing)}: fetch the missing parts")
    return [there[n] for n in numbers]


def check_parts(
    files: Sequence[Path], fields: Sequence[Mapping[str, Any]], tensors: Sequence[int]
) -> None:
    """Holds what the parts say of themselves against their names.

    Args:
        files: the parts, in order.
        fields: the metadata of each.
        tensors: how many each holds.

    Raises:
        InputError: a part is of another model, or of a file that was renamed.
    """
    count = len(files)
    all_said = fields[0].get("split.tensors.count")
    for number, (file, said) in enumerate(zip(files, fields, strict=True), start=1):
        is_number, is_count = int(said.get("split.no", 0)) + 1, int(said.get("split.count", 1))
        if (is_number, is_count) != (number, count):
            raise InputError(
                f"{file} says that it is part {is_number} of {is_count}, but by its name it is "
                f"{number} of {count}: give it its own name, NAME-{is_number:05d}-of-"
                f"{is_count:05d}.gguf, beside the others"
            )
        if said.get("split.tensors.count") != all_said:
            raise InputError(
                f"{file} is of a model of {said.get('split.tensors.count')} tensors, the first "
                f"part of one of {all_said}: fetch the parts of one model"
            )
    if all_said is not None and sum(tensors) != all_said:
        raise InputError(
            f"{files[0]}: the {count} parts hold {sum(tensors)} tensors, expected {all_said}: "
            "fetch the parts of one model"
        )
