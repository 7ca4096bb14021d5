"""A run directory: settings, tables, and work that survives being killed.

    run.json                         every setting, versions, fingerprints
    TABLE.parquet, NAME.safetensors  what is finished
    parts/TABLE/000000-DIGEST.*      chunks of a table that is not
    activations/SET/000000-DIGEST.*  chunks that stay; see `study.activations`

Every file is written beside its place and renamed into it, so what is there is whole. What was
damaged since is found before it is used: run.json holds a digest of itself and of each finished
file, and a chunk has its own in its name, as any of several processes may write it. Figures are
never read. Of several processes one writes a file, and all read it.
"""

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest, read_json
from jaxdepth.runtime.distributed import all_gather, barrier, is_first, raise_on_all

RUN_FILE = "run.json"
_PARTIAL = ".partial"
_CHUNK = re.compile(r"(\d{6,})-([0-9a-f]{16})\.\w+")


class Run:
    """One run directory."""

    def __init__(self, path: Path, record: dict):
        self.path = path
        self.record = record

    @classmethod
    def open(cls, path: str | Path, settings: Mapping, facts: Mapping) -> "Run":
        """Starts a run at `path`, or goes on with the one that is there.

        Args:
            path: the run directory; made if it does not exist.
            settings: what decides the run's numbers. A run goes on only with the same settings.
            facts: what is worth knowing besides, such as the device.

        Raises:
            InputError: `path` cannot be a run directory, holds a run with other settings, or a
                finished file of it was damaged since.
        """
        path = Path(path)
        settings = json.loads(json.dumps(settings))
        error = None
        try:
            if is_first():
                cls._open(path, settings, facts)
        except (InputError, OSError) as found:
            error = found
        raise_on_all(error)
        if not (path / RUN_FILE).is_file():
            error = InputError(f"process {jax.process_index()} does not see {path}: share it")
        raise_on_all(error)
        return cls(path, read_record(path))

    @classmethod
    def _open(cls, path: Path, settings: Mapping, facts: Mapping) -> None:
        if (path / RUN_FILE).is_file():
            run = cls(path, read_record(path))
            _same_settings(path, run.record["settings"], settings)
            run._check()
            run._tidy()
            return
        if path.exists() and (not path.is_dir() or any(map(_not_ours, path.iterdir()))):
            raise InputError(f"{path} exists and is not a run directory: name another with --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"cannot make {path}: one of its parents is a file") from None
        run = cls(
            path,
            {
                "settings": settings,
                "facts": {**facts, "python": platform.python_version()},
                "versions": {d.name: d.version for d in sorted(distributions(), key=_name)},
                "tables": {},
                "files": {},
            },
        )
        run._save()

    def finished(self, table: str) -> bool:
        """Whether a table is complete."""
        return table in self.record["tables"]

    def has_file(self, name: str) -> bool:
        """Whether a file that is no table is complete."""
        return name in self.record["files"]

    def has_part(self, table: str, number: int) -> bool:
        """Whether that chunk of an unfinished table is done."""
        return chunks_done(self._parts(table), [number])[0]

    def parts_done(self, tables: Sequence[str], count: int) -> list[bool]:
        """For each of the chunks 0..count-1 whether all these tables have it."""
        of_each = [chunks_done(self._parts(table), range(count)) for table in tables]
        return [all(here) for here in zip(*of_each, strict=True)]

    def write_part(self, table: str, number: int, content: pa.Table, writer: int = 0) -> None:
        """Writes one chunk of a table, in the process that is its writer."""
        if jax.process_index() == writer:
            write_chunk(self._parts(table), number, ".parquet", _parquet(content))

    def finish_parts(self, table: str, count: int | None = None) -> None:
        """Joins the chunks 0..count-1, or all that there are, and removes them.

        Raises:
            InputError: one is missing or damaged; on all processes.
        """
        barrier()  # for the writers of all chunks
        content, error = None, None
        if is_first():
            try:
                content = self._joined(table, count)
            except (InputError, OSError) as found:
                error = found
        raise_on_all(error)
        self.write_table(table, content)
        if is_first():
            self._tidy()

    def _joined(self, table: str, count: int | None) -> pa.Table:
        there = find_chunks(self._parts(table))
        wanted = sorted(there) if count is None else range(count)
        lacking = [number for number in wanted if number not in there]
        if lacking or not wanted:
            raise InputError(
                f"{self._parts(table)} lacks chunk {min(lacking, default=0)}: run the same command "
                "again, or name another run directory"
            )
        return pa.concat_tables(pq.read_table(check_chunk(there[number])) for number in wanted)

    def write_table(self, table: str, content: pa.Table | None) -> None:
        """Writes a whole table, as the first process has it, and records its digest."""
        if is_first():
            self._forget("tables", table)
            atomic_write(self.table_path(table), _parquet(content))
            self.record["tables"][table] = {
                "rows": content.num_rows,
                "sha256": file_digest(self.table_path(table)),
            }
            self._save()
        barrier()
        self.record = read_record(self.path)

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Writes a file of what all processes have alike, and records its digest."""
        if is_first():
            self._forget("files", name)
            atomic_write(self.path / name, write)
            self.record["files"][name] = file_digest(self.path / name)
            self._save()
        barrier()
        self.record = read_record(self.path)

    def table_path(self, table: str) -> Path:
        return self.path / f"{table}.parquet"

    def _tidy(self) -> None:
        """Removes what is left of finished tables, and of writes that were cut short."""
        for table in self.record["tables"]:
            shutil.rmtree(self.path / "parts" / table, ignore_errors=True)
        parts = self.path / "parts"
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()
        for partial in self.path.rglob(f".*{_PARTIAL}"):
            partial.unlink()

    def _check(self) -> None:
        """Holds what is finished against its digest; what was removed is to be made again."""
        lacking = []
        for kind, name, file, digest in finished_files(self.path, self.record):
            if not file.is_file():
                lacking.append((kind, name))
            elif file_digest(file) != digest:
                raise _damaged(file)
        for kind, name in lacking:
            self._forget(kind, name)

    def _forget(self, kind: str, name: str) -> None:
        """Takes a file for unfinished, as it is while it is written a second time."""
        if self.record[kind].pop(name, None) is not None:
            self._save()

    def _parts(self, table: str) -> Path:
        return self.path / "parts" / table

    def _save(self) -> None:
        record = json.loads(json.dumps(self.record))
        sealed = record | {"sha256": _own_digest(record)}
        text = json.dumps(sealed, indent=1, ensure_ascii=False) + "\n"
        atomic_write(self.path / RUN_FILE, lambda p: p.write_text(text, encoding="utf-8"))


def read_record(run_path: str | Path) -> dict:
    """What run.json says of a run, held against its digest of itself.

    Raises:
        InputError: no run there, or run.json was damaged since.
    """
    file = Path(run_path) / RUN_FILE
    if not file.is_file():
        raise InputError(f"{run_path} is not a run directory (it has no {RUN_FILE})")
    record = read_json(file, "it is damaged; name another run directory")
    said = record.pop("sha256", None) if isinstance(record, dict) else None
    # Runs of earlier versions have no digest, and no files but tables.
    if not _well_formed(record) or said not in (None, _own_digest(record)):
        raise InputError(f"{file} is damaged: name another run directory")
    return {"files": {}} | record


def _well_formed(record) -> bool:
    """Whether a record is one by its keys and types; its names lead nowhere else."""
    kinds = {"settings", "facts", "versions", "tables"}
    if not isinstance(record, dict) or not kinds <= set(record) <= kinds | {"files"}:
        return False
    if not all(isinstance(of, dict) for of in record.values()):
        return False
    tables, files = record["tables"], record.get("files", {})
    return (
        all(isinstance(t, dict) and set(t) == {"rows", "sha256"} for t in tables.values())
        and all(type(t["rows"]) is int and isinstance(t["sha256"], str) for t in tables.values())
        and all(isinstance(digest, str) for digest in files.values())
        and all(re.fullmatch(r"\w[\w.-]*", name) for name in (*tables, *files))
    )


def _own_digest(record: Mapping) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def finished_files(path: Path, record: Mapping) -> Iterator[tuple[str, str, Path, str]]:
    """The finished files of a run: where its record tells of each, its name, place and digest."""
    for table, said in record["tables"].items():
        yield "tables", table, path / f"{table}.parquet", said["sha256"]
    for name, digest in record["files"].items():
        yield "files", name, path / name, digest


def check_file(file: Path) -> Path:
    """A file, held against the run that made it if it lies in one.

    Raises:
        InputError: the file, or the run.json beside it, was damaged since.
    """
    if (file.parent / RUN_FILE).is_file() and file.is_file():
        said = read_record(file.parent)["files"].get(file.name)
        if said is not None and file_digest(file) != said:
            raise _damaged(file)
    return file


def _damaged(file: Path) -> InputError:
    return InputError(
        f"{file} is damaged: it differs from the digest in {RUN_FILE}; remove it and run the same "
        "command again"
    )


def read_table(run_path: str | Path, table: str) -> pa.Table:
    """A finished table of a run, held against the digest in its run.json.

    Raises:
        InputError: no run there, the table is not finished, or it was damaged since.
    """
    said = read_record(run_path)["tables"].get(table)
    file = Path(run_path) / f"{table}.parquet"
    if said is None or not file.is_file():
        raise InputError(
            f"{run_path} has no finished table {table}: run the command again to finish"
        )
    if file_digest(file) != said["sha256"]:
        raise _damaged(file)
    return pq.read_table(file)


def read_frame(run_path: str | Path, table: str) -> pd.DataFrame:
    """A finished table of a run as a data frame; raises InputError as `read_table` does."""
    return read_table(run_path, table).to_pandas()


def write_chunk(folder: Path, number: int, suffix: str, write: Callable[[Path], object]) -> None:
    """Writes a chunk of unfinished work, with its digest in its name; one that is there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    with _durable(folder / f"{number:06d}{suffix}", write) as partial:
        name = f"{number:06d}-{_short_digest(partial)}{suffix}"
        for other in folder.glob(f"{number:06d}-*"):
            other.unlink()
        partial.replace(folder / name)


def find_chunks(folder: Path) -> dict[int, Path]:
    """The chunks in a folder by number, whole or damaged."""
    found = ((_CHUNK.fullmatch(file.name), file) for file in folder.glob("*"))
    return {int(name[1]): file for name, file in found if name}


def check_chunk(file: Path) -> Path:
    """A chunk, held against the digest in its name.

    Raises:
        InputError: it was damaged since.
    """
    if _short_digest(file) != _CHUNK.fullmatch(file.name)[2]:
        raise InputError(
            f"{file} is damaged: it differs from the digest in its name; remove it and run the "
            "same command again"
        )
    return file


def chunks_done(folder: Path, numbers: Sequence[int]) -> list[bool]:
    """For each of these chunks whether it is there, as the first process sees it.

    Raises:
        InputError: one was damaged since; on all processes.
    """
    here, error = np.zeros(len(numbers), bool), None
    if is_first():
        try:
            there = find_chunks(folder)
            here[:] = [n in there and bool(check_chunk(there[n])) for n in numbers]
        except (InputError, OSError) as found:
            error = found
    raise_on_all(error)
    return all_gather(here)[0].tolist()


def _same_settings(path: Path, old: Mapping, new: Mapping) -> None:
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            raise InputError(
                f"{path} holds a run with {name} = {_short(old.get(name))}, not "
                f"{_short(new.get(name))}: use the same settings, or another --out"
            )


def _not_ours(path: Path) -> bool:
    return not path.name.endswith(_PARTIAL)  # a run that was killed while it began


def _short(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _name(distribution) -> str:
    return (distribution.name or "").lower()


def _parquet(content: pa.Table) -> Callable[[Path], object]:
    return lambda path: pq.write_table(content, path, compression="zstd")


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """`atomic_write` by the first process, of what all have alike; the others wait for it."""
    if is_first():
        atomic_write(path, write)
    barrier()


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the place, makes it durable, renames it in."""
    with _durable(path, write) as partial:
        partial.replace(path)


@contextmanager
def _durable(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """A file that is written beside its place, to be renamed."""
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _short_digest(path: Path) -> str:
    return file_digest(path)[:16]
