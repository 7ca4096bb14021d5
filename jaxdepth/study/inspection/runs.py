"""Describe a run directory, and whether its files match their digests."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest
from jaxdepth.study.atomic_files import check_chunk, find_chunks
from jaxdepth.study.inspection.description import (
    Description,
    Rows,
    format_bytes,
    format_count,
    format_values,
    name_first,
    truncate,
)
from jaxdepth.study.probes.activations import FOLDER
from jaxdepth.study.run_directory import finished_files, read_record

_DAMAGED, _MISSING = "DAMAGED", "MISSING"
_VERSIONS = ("jaxdepth", "jax", "flax", "numpy")


def describe_run(path: Path) -> Description:
    """Describe a run directory; every file but figures is compared with its digest.

    Raises:
        InputError: its run.json is damaged. Other damage is part of the description.
    """
    record = read_record(path)
    settings, provenance = record["settings"], record["facts"]
    versions = {n: v for n, v in record["versions"].items() if n in _VERSIONS}
    finished, chunks = list(_finished(path, record)), list(_chunks(path))
    unfinished = list(_unfinished(path))
    base = settings.get("model_fingerprint") or settings.get("base_fingerprint")
    rows = [
        ("command", _command(settings)),
        ("model", f"{provenance.get('model', 'unknown')}, fingerprint {base or 'unknown'}"),
        *([("adapter", str(provenance["adapter"]))] if provenance.get("adapter") else []),
        *_prompts_row(provenance.get("prompts")),
        ("run on", ", ".join(str(provenance[n]) for n in ("device", "mesh") if n in provenance)),
        ("made by", format_values(versions | {"Python": provenance.get("python")})),
        ("settings", format_values({k: v for k, v in settings.items() if k != "command"})),
        *name_first("finished", finished),
        *name_first("chunks", chunks),
        *name_first("unfinished", unfinished),
    ]
    texts = finished + chunks + unfinished
    is_damaged = any(_DAMAGED in text or _MISSING in text for text in texts)
    return Description(f"a run of jaxdepth{', with DAMAGE' if is_damaged else ''}", rows)


def _prompts_row(names) -> Rows:
    """The names of the prompt sets, which are no setting: their content is."""
    return [("prompts", truncate(", ".join(map(str, names)), 120))] if names else []


def _command(settings: Mapping) -> str:
    """The command that made a run; tuning does not record it."""
    default = "tune" if "tasks_sha256" in settings else "unknown"
    return str(settings.get("command", default))


def _finished(path: Path, record: Mapping) -> Iterator[str]:
    for kind, name, file, digest in finished_files(path, record):
        rows = ""
        if kind == "tables":
            rows = f"{format_count(record[kind][name]['rows'], 'row')}, "
        if not file.is_file():
            yield f"{file.name}: {_MISSING}"
            continue
        state = "matches its digest" if file_digest(file) == digest else _DAMAGED
        yield f"{file.name}: {rows}{format_bytes(file.stat().st_size)}, {state}"


def _chunks(path: Path) -> Iterator[str]:
    for folder in sorted((path / FOLDER).glob("*")):
        yield _describe_chunks(path, folder)


def _unfinished(path: Path) -> Iterator[str]:
    for folder in sorted((path / "parts").glob("*")):
        yield _describe_chunks(path, folder)
    for folder in sorted((path / "state").glob("*")):
        if folder.name.isdecimal():
            steps = format_count(int(folder.name), "step")
            yield f"{folder.relative_to(path)}: the state after {steps}"


def _describe_chunks(path: Path, folder: Path) -> str:
    """How many chunks a folder has, and which of them are damaged."""
    chunks = find_chunks(folder)
    damaged = []
    for file in chunks.values():
        try:
            check_chunk(file)
        except InputError:
            damaged.append(file.name)
    state = f"{_DAMAGED}: {', '.join(sorted(damaged))}" if damaged else "match their digests"
    size = format_bytes(sum(file.stat().st_size for file in chunks.values()))
    return f"{folder.relative_to(path)}: {format_count(len(chunks), 'chunk')}, {size}, {state}"
