"""What a run directory holds, and whether it is as it was written, for `jaxdepth inspect`."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest
from jaxdepth.study.inspection.seen import Seen, counted, size, told
from jaxdepth.study.probes.activations import FOLDER
from jaxdepth.study.run_directory import check_chunk, find_chunks, finished_files, read_record

_RIGHT, _DAMAGED, _MISSING = "as its digest says", "DAMAGED", "MISSING"
_VERSIONS = ("jaxdepth", "jax", "flax", "numpy")


def run_seen(path: Path) -> Seen:
    """A run directory; every file but figures is held against its digest.

    Raises:
        InputError: its run.json is damaged. Other damage is told.
    """
    record = read_record(path)
    settings, facts = record["settings"], record["facts"]
    versions = {n: v for n, v in record["versions"].items() if n in _VERSIONS}
    finished, chunks = list(_finished(path, record)), list(_chunks(path))
    unfinished = list(_unfinished(path))
    base = settings.get("model_fingerprint") or settings.get("base_fingerprint")
    rows = [
        ("command", _command(settings)),
        ("model", f"{facts.get('model', 'not told')}, fingerprint {base or 'not told'}"),
        *([("adapter", str(facts["adapter"]))] if facts.get("adapter") else []),
        ("run on", ", ".join(str(facts[n]) for n in ("device", "mesh") if n in facts)),
        ("made by", told(versions | {"Python": facts.get("python")})),
        ("settings", told({k: v for k, v in settings.items() if k != "command"})),
        *_named("finished", finished),
        *_named("chunks", chunks),
        *_named("unfinished", unfinished),
    ]
    wrong = any(_DAMAGED in text or _MISSING in text for text in finished + chunks + unfinished)
    return Seen(f"a run of jaxdepth{', with DAMAGE' if wrong else ''}", rows)


def _command(settings: Mapping) -> str:
    """Tuning does not say so itself."""
    tuned = "tune" if "tasks_sha256" in settings else "not told"
    return str(settings.get("command", tuned))


def _finished(path: Path, record: Mapping) -> Iterable[str]:
    for kind, name, file, digest in finished_files(path, record):
        what = f"{counted(record[kind][name]['rows'], 'row')}, " if kind == "tables" else ""
        if not file.is_file():
            yield f"{file.name}: {_MISSING}"
            continue
        state = _RIGHT if file_digest(file) == digest else _DAMAGED
        yield f"{file.name}: {what}{size(file.stat().st_size)}, {state}"


def _chunks(path: Path) -> Iterable[str]:
    for folder in sorted((path / FOLDER).glob("*")):
        yield _folder(path, folder)


def _unfinished(path: Path) -> Iterable[str]:
    for folder in sorted((path / "parts").glob("*")):
        yield _folder(path, folder)
    for folder in sorted((path / "state").glob("*")):
        if folder.name.isdecimal():
            yield f"{folder.relative_to(path)}: the state after {counted(int(folder.name), 'step')}"


def _folder(path: Path, folder: Path) -> str:
    """How many chunks a folder holds, and which of them are damaged."""
    chunks = find_chunks(folder)
    wrong = []
    for file in chunks.values():
        try:
            check_chunk(file)
        except InputError:
            wrong.append(file.name)
    state = f"{_DAMAGED}: {', '.join(sorted(wrong))}" if wrong else "as their digests say"
    held = size(sum(file.stat().st_size for file in chunks.values()))
    where = folder.relative_to(path)
    if not chunks:  # as of earlier versions
        return f"{where}: no chunks with digests"
    return f"{where}: {counted(len(chunks), 'chunk')}, {held}, {state}"


def _named(name: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    return [(name if n == 0 else "", text) for n, text in enumerate(texts)]
