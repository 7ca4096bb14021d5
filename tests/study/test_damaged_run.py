"""A flipped byte in a run: an error that names the file, or the same results."""

import json
import shutil

import jax
import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file
from studies import settings_of

from jaxdepth import InputError
from jaxdepth.probing.direction import Directions, read_directions, save_directions
from jaxdepth.study.atomic_files import write_chunk
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.run_directory import (
    Run,
    _record_digest,
    check_file,
    read_record,
    read_table,
)
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.tuning.state import checksums, load_checked_state
from jaxdepth.tune.train import State, make_optimizer
from jaxdepth.weights.train_state import save_state

SETTINGS = {"command": "sweep", "exits": [1, 2], "seed": 0}
PROVENANCE = {"model": "somewhere", "depth": 2}
FLIPS = 6  # in each file


def rows(number: int) -> pa.Table:
    names = [f"prompt {number} {n}" for n in range(40)]
    return pa.table({"name": names, "value": np.random.default_rng(number).normal(size=40)})


def begin(path) -> Run:
    """An unfinished run with chunks of a table and of activations."""
    run = Run.open(path, SETTINGS, PROVENANCE)
    for number in range(2):
        run.write_part("texts", number, rows(number))
        arrays = {
            "stream": np.random.default_rng(number).normal(size=(2, 1, 3, 4)).astype(np.float32),
            "rows": np.arange(2, dtype=np.int32) + 2 * number,
        }
        folder = path / "activations" / "own"
        write_chunk(folder, number, ".safetensors", lambda p, a=arrays: save_file(a, p))
    return run


def finish(run: Run) -> None:
    run.finish_parts("texts", 2)
    directions = Directions({"content.last": np.ones((3, 4), np.float32)}, "a" * 64, None, {})
    run.write_file("directions.safetensors", lambda p: save_directions(p, directions))


def resume(path) -> Run:
    """Open an unfinished run and finish it, as a command does."""
    run = Run.open(path, SETTINGS, PROVENANCE)
    if not run.finished("texts"):
        assert run.parts_done(["texts"], 2) == [True, True]
        finish(run)
    return run


def read_back(path) -> tuple:
    """Everything that is ever read from a run."""
    directions = read_directions(check_file(path / "directions.safetensors"))
    return (
        read_record(path),
        read_table(path, "texts").to_pylist(),
        read_stream(path, "own", 0).tobytes(),
        {name: array.tobytes() for name, array in directions.arrays.items()},
        directions.base,
    )


def flips(path, count: int = FLIPS, seed: int = 0):
    """Yield each file of a folder while one of its bytes is flipped; then restore it."""
    rng = np.random.default_rng(seed)
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        whole = file.read_bytes()
        for offset in rng.integers(len(whole), size=count) if whole else ():
            content = bytearray(whole)
            content[offset] ^= rng.integers(1, 256)
            file.write_bytes(content)
            yield file, int(offset)
        file.write_bytes(whole)


def is_noticed(read, intact, file, offset, name=None) -> bool:
    """Whether reading raises an error that names the file; if not, the results must be equal."""
    try:
        results = read()
    except InputError as error:
        message = str(error)
        assert (name or file.name) in message, (file, offset)
        assert "\n" not in message
        return True
    assert results == intact, (file, offset)
    return False


def test_a_flipped_byte_of_a_finished_run(tmp_path):
    path = tmp_path / "run"
    finish(begin(path))
    intact = read_back(path)
    noticed = {}
    for file, offset in flips(path, 40):
        is_found = is_noticed(lambda: read_back(path), intact, file, offset)
        noticed.setdefault(file.name.split("-")[0], []).append(is_found)
    assert len(noticed) == 5  # run.json, a table, directions, two chunks of activations
    for name, actual in noticed.items():  # JSON's white space does not matter
        assert all(actual) or (name == "run.json" and np.mean(actual) > 0.5), name
    assert read_back(path) == intact
    for file, _ in flips(path, 2):
        if file.parent == path and file.name != "run.json":
            with pytest.raises(InputError, match=f"{file.name} is damaged"):
                resume(path)


def test_a_flipped_byte_of_an_unfinished_run(tmp_path):
    path, copy = tmp_path / "run", tmp_path / "copy"
    begin(path)

    def resumed():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        resume(copy)
        return read_back(copy)

    intact = resumed()
    names = {True: set(), False: set()}
    for file, offset in flips(path):
        names[is_noticed(resumed, intact, file, offset)].add(file.name)
    assert len(names[True]) == 5  # run.json, two chunks of a table, two of activations
    assert names[False] <= {"run.json"}  # its white space does not matter
    assert resumed() == intact


def test_damage_between_resuming_and_joining_is_found(tmp_path):
    run = begin(tmp_path / "run")
    for file, _ in flips(tmp_path / "run" / "parts", 1):
        with pytest.raises(InputError, match=file.name):
            run.finish_parts("texts", 2)
        with pytest.raises(InputError, match=file.name):
            run.has_part("texts", int(file.name[:6]))
    (file,) = (tmp_path / "run" / "parts" / "texts").glob("000001-*")
    file.unlink()
    with pytest.raises(InputError, match="lacks chunk 1"):
        run.finish_parts("texts", 2)
    run.write_part("texts", 1, rows(1))
    run.write_part("texts", 1, rows(2))  # replaces the first
    run.finish_parts("texts")
    names = read_table(run.path, "texts")["name"].to_pylist()
    assert names == rows(0)["name"].to_pylist() + rows(2)["name"].to_pylist()


def test_what_is_removed_is_made_again(tmp_path):
    path = tmp_path / "run"
    finish(begin(path))
    for name in ("texts.parquet", "directions.safetensors"):
        (path / name).unlink()
    run = Run.open(path, SETTINGS, PROVENANCE)
    assert not run.finished("texts")
    assert not run.has_file("directions.safetensors")


def test_killed_while_a_table_is_written_again(tmp_path, monkeypatch):
    """A table without a digest in run.json is unfinished, not damaged."""
    finish(begin(tmp_path / "run"))
    run = Run.open(tmp_path / "run", SETTINGS, PROVENANCE)
    save, saves_left = Run._save, [1]

    def killed(self):
        if not saves_left[0]:
            raise KeyboardInterrupt
        saves_left[0] -= 1
        save(self)

    monkeypatch.setattr(Run, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_table("texts", rows(3))
    monkeypatch.undo()
    assert not Run.open(tmp_path / "run", SETTINGS, PROVENANCE).finished("texts")


RECORD = {"settings": {}, "facts": {}, "versions": {}, "tables": {}, "files": {}}
MALFORMED = {
    "a key is missing": {key: {} for key in RECORD if key != "settings"},
    "another key": RECORD | {"more": {}},
    "a wrong type": RECORD | {"settings": []},
    "no rows": RECORD | {"tables": {"a": {"sha256": ""}}},
    "a path outside the run": RECORD | {"files": {"../a": ""}},
}
NO_RECORDS = {"empty": "", "a list": "[]", "nested": "[" * 10**5, "no digest": json.dumps(RECORD)}
NO_RECORDS |= {
    name: json.dumps(record | {"sha256": _record_digest(record)})
    for name, record in MALFORMED.items()
}


@pytest.mark.parametrize("content", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_run_json_that_is_none(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    for use in (lambda: Run.open(tmp_path, {}, {}), lambda: read_table(tmp_path, "a")):
        with pytest.raises(InputError, match=r"run\.json .*(damaged)"):
            use()


def test_a_record_with_its_digest_is_read(tmp_path):
    """What makes the malformed records above fail is what each one changes."""
    sealed = RECORD | {"sha256": _record_digest(RECORD)}
    (tmp_path / "run.json").write_text(json.dumps(sealed))
    assert read_record(tmp_path) == RECORD


def test_run_json_with_another_value_is_damaged(tmp_path):
    run = Run.open(tmp_path / "run", SETTINGS, PROVENANCE)
    file = run.path / "run.json"
    record = json.loads(file.read_text())
    record["settings"]["seed"] = 1
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        Run.open(run.path, SETTINGS | {"seed": 1}, PROVENANCE)


def test_a_flipped_byte_of_a_state_of_tuning(tmp_path):
    params = {"a": jax.random.normal(jax.random.key(0), (50, 70)), "b": jax.numpy.ones((64,))}
    state = State(jax.numpy.int32(3), params, make_optimizer(1e-3, 1, 9, 0.0, 1.0).init(params))
    folder = tmp_path / "state"
    save_state(folder, 3, (state, checksums(state)))

    def restored():
        loaded = load_checked_state(folder, state)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loaded)]

    intact = restored()
    assert intact == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    noticed = [is_noticed(restored, intact, file, at, "state") for file, at in flips(folder, 3)]
    assert any(noticed)


def test_every_bit_of_a_state_counts(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    sums = {int(checksums(array)[0])}
    for index in range(array.size):
        for bit in range(32):
            changed = array.copy()
            changed.reshape(-1).view(np.uint32)[index] ^= np.uint32(1 << bit)
            assert int(checksums(changed)[0]) not in sums
    swapped = array[:, ::-1].copy()
    assert int(checksums(swapped)[0]) not in sums


def test_a_sweep_names_a_damaged_part(tiny_path, tmp_path, quick_programs, monkeypatch):
    options = {"limit": 2, "batch_size": 2, "max_new_tokens": 0, "exits": "1"}
    settings = settings_of(Sweep, tiny_path, tmp_path / "run", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep(settings)
    for file, _ in flips(tmp_path / "run" / "parts", 1):
        with pytest.raises(InputError, match=file.name):
            sweep(settings)
    assert sweep(settings).record["tables"]["first_token"]["rows"] == 4
