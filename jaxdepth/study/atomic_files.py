"""Files that are complete or absent even after a kill, and chunks of unfinished work.

A file is written under a temporary name and then renamed. A chunk has its digest in its name,
`000000-DIGEST.suffix`, as any of several processes may write one.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest
from jaxdepth.runtime.distributed import all_gather, barrier, is_first, raise_on_all
from jaxdepth.runtime.lock import process_name

PARTIAL = ".partial"  # how the name of a file ends while it is written
_CHUNK = re.compile(r"(\d{6,})-([0-9a-f]{16})\.\w+")

Writer = Callable[[Path], object]  # writes a file
T = TypeVar("T")


def on_first(work: Callable[[], T]) -> T | None:
    """Call `work` in the first process; the others get None.

    Raises:
        InputError: `work` raised it, or an OSError; on all processes.
    """
    result, error = None, None
    if is_first():
        try:
            result = work()
        except (InputError, OSError) as raised:
            error = raised
    raise_on_all(error)
    return result


def write_once(path: Path, write: Writer) -> None:
    """`atomic_write` in the first process, of content that all have; the others wait for it."""
    if is_first():
        atomic_write(path, write)
    barrier()


def atomic_write(path: Path, write: Writer) -> None:
    """Write a file under a temporary name, make it durable, and rename it."""
    with _durable(path, write) as partial:
        partial.replace(path)


def parquet(content: pa.Table) -> Writer:
    """The writer of a table as compressed Parquet."""
    return lambda path: pq.write_table(content, path, compression="zstd")


def write_chunk(folder: Path, number: int, suffix: str, write: Writer) -> None:
    """Write a chunk of unfinished work; it replaces an earlier one of that number."""
    folder.mkdir(parents=True, exist_ok=True)
    with _durable(folder / f"{number:06d}{suffix}", write) as partial:
        name = f"{number:06d}-{_short_digest(partial)}{suffix}"
        for other in folder.glob(f"{number:06d}-*"):
            other.unlink()
        partial.replace(folder / name)


def find_chunks(folder: Path) -> dict[int, Path]:
    """The chunks in a folder by number, whole or damaged."""
    matches = ((_CHUNK.fullmatch(file.name), file) for file in folder.glob("*"))
    return {int(match[1]): file for match, file in matches if match}


def check_chunk(file: Path) -> Path:
    """A chunk, once its content is compared with the digest in its name.

    Raises:
        InputError: it was damaged since it was written.
    """
    match = _CHUNK.fullmatch(file.name)
    if match is None or _short_digest(file) != match[2]:
        raise InputError(
            f"{file} is damaged: it differs from the digest in its name; remove it and run the "
            "same command again"
        )
    return file


def chunks_done(folder: Path, numbers: Sequence[int]) -> list[bool]:
    """For each of these numbers whether its chunk is written, as the first process sees it.

    Raises:
        InputError: a chunk was damaged since it was written; on all processes.
    """

    def check() -> list[bool]:
        files = find_chunks(folder)
        return [number in files and bool(check_chunk(files[number])) for number in numbers]

    done = on_first(check)
    return all_gather(np.array(done or [False] * len(numbers), bool))[0].tolist()


@contextmanager
def _durable(path: Path, write: Writer) -> Iterator[Path]:
    """A file under a temporary name, to be written and then renamed."""
    partial = path.with_name(f".{path.name}.{process_name()}{PARTIAL}")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _short_digest(path: Path) -> str:
    return file_digest(path)[:16]
