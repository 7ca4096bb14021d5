"""What a command has left in a folder: a digest for each thing, and what differs from before."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdepth.errors import InputError
from jaxdepth.files import file_digest
from jaxdepth.study.run_directory import RUN_FILE, finished_files, read_record
from jaxdepth.weights.checkpoint import MANIFEST, read_manifest
from jaxdepth.weights.load import load

State = dict[str, str]
VARIES = "varies"  # the content of what two uninterrupted runs do not write alike


def end_state(folder: Path) -> State:
    """Digests of all files below a folder, by their paths.

    A checkpoint is loaded, which checks its digests: its weights count as their arrays, its
    manifest by its keys. The record of a run counts by its keys too, once the digests in it are
    compared with the files.

    Raises:
        InputError: a checkpoint or a run is damaged.
    """
    state: State = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        checkpoint = _checkpoint_of(file)
        if file.name == RUN_FILE:
            state |= _keys(name, _checked_record(file.parent))
        elif file.name == MANIFEST:
            state |= _keys(name, dict(read_manifest(file.parent)))
            state[f"{name}: weights"] = _weights_digest(file.parent)
        elif checkpoint is None or file.parent == checkpoint:
            state[name] = file_digest(file)
    return state


def common(first: State, second: State) -> State:
    """What two uninterrupted runs have in common: content that differs is VARIES."""
    return {
        name: first[name] if first[name] == second[name] else VARIES
        for name in first.keys() & second.keys()
    }


def varying_names(first: State, second: State) -> list[str]:
    """Patterns of the names that one of two uninterrupted runs has alone: times, random names."""
    return sorted({_pattern(name) for name in first.keys() ^ second.keys()})


def differences(state: State, expected: State, varying: list[str]) -> list[str]:
    """What of a state is not as expected, a line each.

    Args:
        state: of the folder.
        expected: from `common`.
        varying: from `varying_names`.
    """
    lines = []
    for name in sorted(state.keys() | expected.keys()):
        if name not in state:
            lines.append(f"{name} is missing")
        elif name not in expected:
            if _pattern(name) not in varying:
                lines.append(f"{name} is left over")
        elif expected[name] not in (VARIES, state[name]):
            lines.append(f"{name} is another one")
    return lines


def _pattern(name: str) -> str:
    """A name without what numbers, times and random letters may be in it."""
    stem, _, file = name.rpartition("/")
    return f"{stem}/{re.sub(r'[0-9A-Za-z]*[0-9][0-9A-Za-z]*|[A-Za-z]{16,}', '#', file)}"


def _checkpoint_of(file: Path) -> Path | None:
    """The checkpoint that a file lies in."""
    return next((path for path in file.parents if (path / MANIFEST).is_file()), None)


def _checked_record(run: Path) -> dict:
    """A run's record, once its files are those that it names."""
    record = read_record(run)
    for _, name, file, digest in finished_files(run, record):
        if file_digest(file) != digest:
            record["files"][name] = "not the file that is there"
    return record


def _keys(name: str, record: Mapping) -> State:
    """A digest for each of the keys of a record, and for those of its objects."""
    flat = {}
    for key, value in record.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}: {key} {below}".rstrip(): value for below, value in inner}
    return {key: _digest(json.dumps(value, sort_keys=True)) for key, value in flat.items()}


def _weights_digest(checkpoint: Path) -> str:
    """Of all arrays of a checkpoint, loaded in a process of its own: whether it dies is seen."""
    done = subprocess.run([sys.executable, __file__, checkpoint], capture_output=True, text=True)
    if done.returncode:
        line = done.stderr.strip().rpartition("\n")[2][:200]
        raise InputError(f"loading {checkpoint} ended with status {done.returncode}: {line}")
    return done.stdout.strip()


def _digest_of_weights(checkpoint: Path) -> str:
    import jax

    model, _ = load(checkpoint)
    arrays = jax.tree.leaves_with_path(model)
    text = [(jax.tree_util.keystr(path), _digest(np.asarray(a).tobytes())) for path, a in arrays]
    return _digest(json.dumps(sorted(text)))


def _digest(content: str | bytes) -> str:
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    print(_digest_of_weights(Path(sys.argv[1])))
