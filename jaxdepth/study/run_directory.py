"""A run directory: settings, finished tables, and the chunks of those that are not finished.

    run.json                         settings, provenance, versions, digests of finished files
    TABLE.parquet, NAME.safetensors  finished files
    parts/TABLE/000000-DIGEST.*      chunks of an unfinished table
    activations/SET/000000-DIGEST.*  chunks that stay; see `study.probes.activations`

Damage is noticed before a file is used: run.json holds a digest of itself and of each finished
file. Figures are never read. Of several processes one writes a file, and all read it.
"""

import hashlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

import jax
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.errors import InputError, listed, visible
from jaxdepth.files import file_digest, read_json
from jaxdepth.runtime.distributed import barrier, is_first, raise_on_all
from jaxdepth.runtime.lock import LOCK_FILE
from jaxdepth.runtime.log import LOG_FILE, begin_log, logger
from jaxdepth.study.atomic_files import (
    PARTIAL,
    Writer,
    atomic_write,
    check_chunk,
    chunks_done,
    find_chunks,
    on_first,
    parquet,
    write_chunk,
)
from jaxdepth.study.run_record import check_record
from jaxdepth.study.tables import Table

RUN_FILE = "run.json"
_LEFT = (PARTIAL, LOCK_FILE, LOG_FILE)
# Settings that are digests of how prompts are written and texts are read, and what changes them.
PROMPT_DIGESTS = {"tokenizer_sha256": "tokenizer", "template_sha256": "chat template"}
REFERENCE = "reference_"  # before the settings of the checkpoint that judges coherence
_OF_REFERENCE = {f"{REFERENCE}{k}": f"{v} of the reference" for k, v in PROMPT_DIGESTS.items()}
_OF_MODEL = {
    "model_fingerprint": "model",
    "base_fingerprint": "model",
    "adapter_sha256": "adapter",
    f"{REFERENCE}fingerprint": "reference",
}


class Run:
    """One run directory."""

    def __init__(self, path: Path, record: dict):
        self.path = path
        self.record = record  # what run.json holds

    @classmethod
    def open(cls, path: str | Path, settings: Mapping, provenance: Mapping) -> "Run":
        """Start a run at `path`, or resume the one that is there.

        Args:
            path: the run directory; made if it does not exist.
            settings: what decides the run's numbers. A run is resumed only with equal settings.
            provenance: where the numbers come from, such as the device; "facts" in run.json.

        Raises:
            InputError: `path` cannot be a run directory, holds a run with other settings, or a
                finished file of it was damaged since.
        """
        path = Path(path)
        settings = json.loads(json.dumps(settings))
        on_first(lambda: cls._open(path, settings, provenance))
        error = None
        if not (path / RUN_FILE).is_file():
            error = InputError(f"process {jax.process_index()} does not see {path}: share it")
        raise_on_all(error)
        begin_log(path)
        run = cls(path, read_record(path))
        finished = listed(run.record["tables"], 20)
        logger.info("tables so far: %s", finished) if finished else None
        return run

    @classmethod
    def _open(cls, path: Path, settings: Mapping, provenance: Mapping) -> None:
        if (path / RUN_FILE).is_file():
            run = cls(path, read_record(path))
            _check_same_settings(path, run.record["settings"], settings)
            run._check_files()
            run._remove_leftovers()
            return
        # What may be left of a run that was killed while it began, or that was removed.
        if path.exists() and not (
            path.is_dir() and all(file.name.endswith(_LEFT) for file in path.iterdir())
        ):
            raise InputError(f"{path} exists and is not a run directory: name another with --out")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"cannot make {path}: one of its parents is a file") from None
        versions = {(d.name or ""): d.version for d in distributions()}
        run = cls(
            path,
            {
                "settings": settings,
                "facts": {**provenance, "python": platform.python_version()},
                "versions": dict(sorted(versions.items(), key=lambda item: item[0].lower())),
                "tables": {},
                "files": {},
            },
        )
        run._save()

    def finished(self, table: str) -> bool:
        """Whether a table is finished."""
        return table in self.record["tables"]

    def has_file(self, name: str) -> bool:
        """Whether a file other than a table is finished."""
        return name in self.record["files"]

    def has_part(self, table: str, number: int) -> bool:
        """Whether that chunk of an unfinished table is written."""
        return chunks_done(self._parts(table), [number])[0]

    def parts_done(self, tables: Sequence[str], count: int) -> list[bool]:
        """For each of the chunks 0..count-1 whether all these tables have it."""
        done = [chunks_done(self._parts(table), range(count)) for table in tables]
        return [all(chunk) for chunk in zip(*done, strict=True)]

    def write_part(self, table: str, number: int, content: pa.Table, writer: int = 0) -> None:
        """Write one chunk of a table, in the process of that index."""
        if jax.process_index() == writer:
            write_chunk(self._parts(table), number, ".parquet", parquet(content))

    def finish_parts(self, table: str, count: int | None = None) -> None:
        """Join the chunks 0..count-1 of a table, or all that exist, and remove them.

        Raises:
            InputError: a chunk is missing or damaged; on all processes.
        """
        barrier()  # for the writers of all chunks
        self.write_table(table, on_first(lambda: self._join_parts(table, count)))
        if is_first():
            self._remove_leftovers()

    def _join_parts(self, table: str, count: int | None) -> pa.Table:
        chunks = find_chunks(self._parts(table))
        numbers = sorted(chunks) if count is None else range(count)
        missing = [number for number in numbers if number not in chunks]
        if missing or not numbers:
            raise InputError(
                f"{self._parts(table)} lacks chunk {min(missing, default=0)}: run the same command "
                "again, or name another run directory"
            )
        tables = [_read_parquet(check_chunk(chunks[number])) for number in numbers]
        try:
            return pa.concat_tables(tables)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{self._parts(table)} has chunks of several kinds ({_first(error)}): name another "
                "run directory"
            ) from None

    def write_table(self, table: str, content: pa.Table | None) -> None:
        """Write a whole table, as the first process has it, and record its digest."""
        if is_first():
            assert content is not None
            self._mark_unfinished("tables", table)
            atomic_write(self.table_path(table), parquet(content))
            self.record["tables"][table] = {
                "rows": content.num_rows,
                "sha256": file_digest(self.table_path(table)),
            }
            self._save()
            logger.info("table %s: %d rows", table, content.num_rows)
        barrier()
        self.record = read_record(self.path)

    def write_file(self, name: str, write: Writer) -> None:
        """Write a file, whose content every process has, and record its digest."""
        if is_first():
            self._mark_unfinished("files", name)
            atomic_write(self.path / name, write)
            self.record["files"][name] = file_digest(self.path / name)
            self._save()
        barrier()
        self.record = read_record(self.path)

    def read_parts(self, table: str) -> list[pa.Table]:
        """The chunks of a table that are written, in order.

        Raises:
            InputError: one was damaged since.
        """
        chunks = find_chunks(self._parts(table))
        return [_read_parquet(check_chunk(chunks[number])) for number in sorted(chunks)]

    def remove_parts(self, table: str) -> None:
        """Remove the chunks of a table, once what they hold is written elsewhere."""
        shutil.rmtree(self._parts(table), ignore_errors=True)
        parts = self.path / "parts"
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()

    def table_path(self, table: str) -> Path:
        """The file of a table."""
        return self.path / f"{table}.parquet"

    def _remove_leftovers(self) -> None:
        """Remove chunks of finished tables, and files of writes that were interrupted."""
        for table in self.record["tables"]:
            shutil.rmtree(self.path / "parts" / table, ignore_errors=True)
        parts = self.path / "parts"
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()
        for partial in self.path.rglob(f".*{PARTIAL}"):
            partial.unlink()

    def _check_files(self) -> None:
        """Compare finished files with their digests; what was removed counts as unfinished."""
        removed = []
        for kind, name, file, digest in finished_files(self.path, self.record):
            if not file.is_file():
                removed.append((kind, name))
            elif file_digest(file) != digest:
                raise _damaged(file)
        for kind, name in removed:
            self._mark_unfinished(kind, name)

    def _mark_unfinished(self, kind: str, name: str) -> None:
        """Remove a file from the record, as before it is written a second time."""
        if self.record[kind].pop(name, None) is not None:
            self._save()

    def _parts(self, table: str) -> Path:
        return self.path / "parts" / table

    def _save(self) -> None:
        record = json.loads(json.dumps(self.record))
        record["sha256"] = _record_digest(record)
        text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
        atomic_write(self.path / RUN_FILE, lambda p: p.write_text(text, encoding="utf-8"))


def read_record(run_path: str | Path) -> dict:
    """What run.json holds, once it is compared with its own digest.

    Raises:
        InputError: there is no run, or run.json was damaged since.
    """
    file = Path(run_path) / RUN_FILE
    if not file.is_file():
        raise InputError(f"{run_path} is not a run directory (it has no {RUN_FILE})")
    record = read_json(file, "it is damaged; name another run directory")
    digest = record.pop("sha256", None) if isinstance(record, dict) else None
    if not isinstance(record, dict) or digest != _record_digest(record):
        raise InputError(f"{file} is damaged: name another run directory")
    return check_record(record, file)


def _record_digest(record: Mapping) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def finished_files(path: Path, record: Mapping) -> Iterator[tuple[str, str, Path, str]]:
    """The finished files of a run: key of the record, name, path and digest of each."""
    for table, entry in record["tables"].items():
        yield "tables", table, path / f"{table}.parquet", entry["sha256"]
    for name, digest in record["files"].items():
        yield "files", name, path / name, digest


def check_file(file: Path) -> Path:
    """A file, once it is compared with its digest if it lies in a run directory.

    Raises:
        InputError: the file, or the run.json beside it, was damaged since.
    """
    if (file.parent / RUN_FILE).is_file() and file.is_file():
        digest = read_record(file.parent)["files"].get(file.name)
        if digest is not None and file_digest(file) != digest:
            raise _damaged(file)
    return file


def _damaged(file: Path, what: str = "digest") -> InputError:
    return InputError(
        f"{file} is damaged: it differs from the {what} in {RUN_FILE}; remove it and run the same "
        "command again"
    )


def read_table(run_path: str | Path, table: str | Table) -> pa.Table:
    """A finished table of a run, once it is compared with the digest in run.json.

    Args:
        run_path: of the run.
        table: its name; or its declaration, by which its columns are checked.

    Raises:
        InputError: there is no run, the table is not finished, it was damaged since, or it has
            other columns than are declared.
    """
    name = table if isinstance(table, str) else table.name
    entry = read_record(run_path)["tables"].get(name)
    file = Path(run_path) / f"{name}.parquet"
    if entry is None or not file.is_file():
        raise InputError(
            f"{run_path} has no finished table {name}: run the command again to finish"
        )
    if file_digest(file) != entry["sha256"]:
        raise _damaged(file)
    content = _read_parquet(file) if isinstance(table, str) else read_declared(file, table)
    if content.num_rows != entry["rows"]:
        raise _damaged(file, "number of rows")
    return content


def _read_parquet(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} is no Parquet file that can be read: {_first(error)}") from None


def read_declared(file: str | Path, table: Table) -> pa.Table:
    """The table in a Parquet file, its columns checked.

    Raises:
        InputError: it cannot be read, or has other columns than are declared.
    """
    content = _read_parquet(Path(file))
    table.check(content, str(file))
    return content


def _first(error: Exception) -> str:
    """The first line of a message, shortened."""
    return visible(str(error).split("\n")[0][:120])


def read_frame(run_path: str | Path, table: Table) -> pd.DataFrame:
    """A finished table of a run as a data frame; errors as `read_table`."""
    return read_table(run_path, table).to_pandas()


def changed_prompts(
    old: Mapping, new: Mapping, words: Mapping[str, str] = PROMPT_DIGESTS
) -> list[str]:
    """What decides how prompts are written, in words, where two runs' settings differ in it.

    A run of an earlier version recorded nothing of it: nothing has changed as far as is known.
    """
    both = [name for name in words if name in old and name in new]
    return [words[name] for name in both if old[name] != new[name]]


def _check_same_settings(path: Path, old: Mapping, new: Mapping) -> None:
    names = sorted(set(old) | set(new), key=lambda name: (name == "prompts_sha256", name))
    differing = [k for k in names if old.get(k) != new.get(k)]
    if new.get("judge_identity") and old.get("judge_identity") == new["judge_identity"]:
        differing = [k for k in differing if k != "judge"]  # the same one by another name
    if not differing:
        return
    if any(name in new and name not in old for name in PROMPT_DIGESTS):
        raise InputError(
            f"{path} holds a run of an earlier version of jaxdepth, which did not record the "
            "tokenizer and the chat template: name another --out, or finish it with that version"
        )
    # A template that prints the date differs with it; what the user named is the reason.
    is_redated = "date" in differing and old.get("date") and new.get("date")
    changed = changed_prompts(old, new, PROMPT_DIGESTS | _OF_REFERENCE)
    if changed and not is_redated:
        words = [word for name, word in _OF_MODEL.items() if name in differing] + changed
        raise InputError(
            f"{path} holds a run with another {listed(words, 8)}: restore what it began with, or "
            "name another --out"
        )
    name = "date" if is_redated else differing[0]
    raise InputError(
        f"{path} holds a run with {name} = {_shorten(old.get(name))}, not "
        f"{_shorten(new.get(name))}: use the same settings, or another --out"
    )


def _shorten(value) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
