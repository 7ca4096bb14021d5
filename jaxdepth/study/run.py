"""A run directory: settings, tables, and work that survives being killed.

    run.json            every setting, versions, fingerprints; a digest of each finished table
    parts/TABLE/*       chunks of an unfinished table, each written whole
    TABLE.parquet       the finished table

Every file is written beside its place and renamed into it, so what is there is whole. Of several
processes one writes it, and all read it.
"""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

import jax
import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.config import read_json
from jaxdepth.errors import InputError
from jaxdepth.processes import agree, first_sees, gathered, is_first, wait

RUN_FILE = "run.json"
_PARTIAL = ".partial"


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
            InputError: `path` cannot be a run directory, or holds a run with other settings.
        """
        path = Path(path)
        settings = json.loads(json.dumps(settings))
        error = None
        try:
            if is_first():
                cls._open(path, settings, facts)
        except (InputError, OSError) as found:
            error = found
        agree(error)
        if not (path / RUN_FILE).is_file():
            error = InputError(f"process {jax.process_index()} does not see {path}: share it")
        agree(error)
        return cls(path, read_json(path / RUN_FILE))

    @classmethod
    def _open(cls, path: Path, settings: Mapping, facts: Mapping) -> None:
        if (path / RUN_FILE).is_file():
            record = read_json(path / RUN_FILE)
            if not isinstance(record, dict) or "settings" not in record:
                raise InputError(f"{path / RUN_FILE} is damaged: name another run directory")
            _same_settings(path, record["settings"], settings)
            cls(path, record)._tidy()
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
            },
        )
        run._save()

    def finished(self, table: str) -> bool:
        """Whether a table is complete."""
        return table in self.record["tables"]

    def has_part(self, table: str, number: int) -> bool:
        """Whether that chunk of an unfinished table is done."""
        return first_sees(self._part(table, number))

    def parts_done(self, tables: Sequence[str], count: int) -> list[bool]:
        """For each of the chunks 0..count-1 whether all these tables have it."""
        here = [all(self._part(t, n).is_file() for t in tables) for n in range(count)]
        return gathered(here)[0].tolist()

    def write_part(self, table: str, number: int, content: pa.Table, writer: int = 0) -> None:
        """Writes one chunk of a table, in the process that is its writer."""
        if jax.process_index() != writer:
            return
        part = self._part(table, number)
        part.parent.mkdir(parents=True, exist_ok=True)
        _write_parquet(part, content)

    def finish_parts(self, table: str, count: int | None = None) -> None:
        """Joins the chunks 0..count-1, or all that there are, and removes them."""
        wait()  # for the writers of all chunks
        content = None
        if is_first():
            every = sorted(self._part(table, 0).parent.glob("*.parquet"))
            parts = every if count is None else [self._part(table, n) for n in range(count)]
            content = pa.concat_tables(map(pq.read_table, parts))
        self.write_table(table, content)
        if is_first():
            self._tidy()

    def write_table(self, table: str, content: pa.Table | None) -> None:
        """Writes a whole table, as the first process has it, and records its digest."""
        if is_first():
            _write_parquet(self.table_path(table), content)
            self.record["tables"][table] = {
                "rows": content.num_rows,
                "sha256": file_digest(self.table_path(table)),
            }
            self._save()
        wait()
        self.record = read_json(self.path / RUN_FILE)

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

    def _part(self, table: str, number: int) -> Path:
        return self.path / "parts" / table / f"{number:06d}.parquet"

    def _save(self) -> None:
        text = json.dumps(self.record, indent=1, ensure_ascii=False) + "\n"
        atomic_write(self.path / RUN_FILE, lambda p: p.write_text(text, encoding="utf-8"))


def read_table(run_path: str | Path, table: str) -> pa.Table:
    """A finished table of a run, held against the digest in its run.json.

    Raises:
        InputError: no run there, the table is not finished, or it was damaged since.
    """
    run_path = Path(run_path)
    if not (run_path / RUN_FILE).is_file():
        raise InputError(f"{run_path} is not a run directory (it has no {RUN_FILE})")
    said = read_json(run_path / RUN_FILE)["tables"].get(table)
    file = run_path / f"{table}.parquet"
    if said is None or not file.is_file():
        raise InputError(
            f"{run_path} has no finished table {table}: run the command again to finish"
        )
    if file_digest(file) != said["sha256"]:
        raise InputError(f"{file} is damaged: it differs from the digest in {RUN_FILE}")
    return pq.read_table(file)


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


def _write_parquet(path: Path, content: pa.Table) -> None:
    atomic_write(path, lambda p: pq.write_table(content, p, compression="zstd"))


def write_once(path: Path, write: Callable[[Path], object]) -> None:
    """`atomic_write` by the first process, of what all have alike; the others wait for it."""
    if is_first():
        atomic_write(path, write)
    wait()


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside the place, makes it durable, renames it in."""
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
