"""A byte of a run that is not what it was: an error that names the file, or the same results."""

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
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.run_directory import Run, check_file, read_record, read_table, write_chunk
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep
from jaxdepth.study.tuning.state import checksums, load_checked_state
from jaxdepth.tune.train import State, make_optimizer
from jaxdepth.weights.train_state import save_state

SETTINGS = {"command": "sweep", "exits": [1, 2], "seed": 0}
FACTS = {"model": "somewhere", "depth": 2}
PLACES = 6  # in each file


def rows(number: int) -> pa.Table:
    names = [f"prompt {number} {n}" for n in range(40)]
    return pa.table({"name": names, "value": np.random.default_rng(number).normal(size=40)})


def begin(path) -> Run:
    """A run with chunks of a table, and of streams."""
    run = Run.open(path, SETTINGS, FACTS)
    for number in range(2):
        run.write_part("said", number, rows(number))
        arrays = {
            "stream": np.random.default_rng(number).normal(size=(2, 1, 3, 4)).astype(np.float32),
            "rows": np.arange(2, dtype=np.int32) + 2 * number,
        }
        folder = path / "activations" / "own"
        write_chunk(folder, number, ".safetensors", lambda p, a=arrays: save_file(a, p))
    return run


def finish(run: Run) -> None:
    run.finish_parts("said", 2)
    directions = Directions({"content.last": np.ones((3, 4), np.float32)}, "a" * 64, None, {})
    run.write_file("directions.safetensors", lambda p: save_directions(p, directions))


def go_on(path) -> Run:
    """What a command does with a run that was begun."""
    run = Run.open(path, SETTINGS, FACTS)
    if not run.finished("said"):
        assert run.parts_done(["said"], 2) == [True, True]
        finish(run)
    return run


def read_back(path) -> tuple:
    """All that is ever read of a run."""
    found = read_directions(check_file(path / "directions.safetensors"))
    return (
        read_record(path),
        read_table(path, "said").to_pylist(),
        read_stream(path, "own", 0).tobytes(),
        {name: array.tobytes() for name, array in found.arrays.items()},
        found.base,
    )


def flips(path, places: int = PLACES, seed: int = 0):
    """Damages a folder byte by byte: yields each file while one of its bytes is another."""
    rng = np.random.default_rng(seed)
    for file in sorted(f for f in path.rglob("*") if f.is_file()):
        whole = file.read_bytes()
        for place in rng.integers(len(whole), size=places) if whole else ():
            content = bytearray(whole)
            content[place] ^= rng.integers(1, 256)
            file.write_bytes(content)
            yield file, int(place)
        file.write_bytes(whole)


def named_or_same(do, want, file, place, called=None) -> bool:
    """Whether damage was found; if not, the results must be as they were."""
    try:
        found, said = do(), None
    except InputError as error:
        said = str(error)
    if said is None:
        assert found == want, (file, place)
        return False
    assert (called or file.name) in said, (file, place)
    assert "\n" not in said
    return True


def test_a_flipped_byte_of_a_finished_run(tmp_path):
    path = tmp_path / "run"
    finish(begin(path))
    want = read_back(path)
    seen = {}
    for file, place in flips(path, 40):
        found = named_or_same(lambda: read_back(path), want, file, place)
        seen.setdefault(file.name.split("-")[0], []).append(found)
    assert len(seen) == 5  # run.json, a table, directions, two chunks of streams
    for name, found in seen.items():  # JSON's white space does not matter
        assert all(found) or (name == "run.json" and np.mean(found) > 0.5), name
    assert read_back(path) == want
    for file, _ in flips(path, 2):
        if file.parent == path and file.name != "run.json":
            with pytest.raises(InputError, match=f"{file.name} is damaged"):
                go_on(path)


def test_a_flipped_byte_of_an_unfinished_run(tmp_path):
    path, copy = tmp_path / "run", tmp_path / "copy"
    begin(path)

    def resumed():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        go_on(copy)
        return read_back(copy)

    want = resumed()
    seen = {True: set(), False: set()}
    for file, place in flips(path):
        seen[named_or_same(resumed, want, file, place)].add(file.name)
    assert len(seen[True]) == 5  # run.json, two chunks of a table, two of streams
    assert seen[False] <= {"run.json"}  # its white space does not matter
    assert resumed() == want


def test_damage_between_resuming_and_joining_is_found(tmp_path):
    run = begin(tmp_path / "run")
    for file, _ in flips(tmp_path / "run" / "parts", 1):
        with pytest.raises(InputError, match=file.name):
            run.finish_parts("said", 2)
        with pytest.raises(InputError, match=file.name):
            run.has_part("said", int(file.name[:6]))
    (file,) = (tmp_path / "run" / "parts" / "said").glob("000001-*")
    file.unlink()
    with pytest.raises(InputError, match="lacks chunk 1"):
        run.finish_parts("said", 2)
    run.write_part("said", 1, rows(1))
    run.write_part("said", 1, rows(2))  # it goes into the place of the first
    run.finish_parts("said")
    names = read_table(run.path, "said")["name"].to_pylist()
    assert names == rows(0)["name"].to_pylist() + rows(2)["name"].to_pylist()


def test_what_is_removed_is_made_again(tmp_path):
    path = tmp_path / "run"
    finish(begin(path))
    for name in ("said.parquet", "directions.safetensors"):
        (path / name).unlink()
    run = Run.open(path, SETTINGS, FACTS)
    assert not run.finished("said")
    assert not run.has_file("directions.safetensors")


def test_killed_while_a_table_is_written_again(tmp_path, monkeypatch):
    """The table is there and no digest of it: it is unfinished, not damaged."""
    finish(begin(tmp_path / "run"))
    run = Run.open(tmp_path / "run", SETTINGS, FACTS)
    save, left = Run._save, [1]

    def killed(self):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        save(self)

    monkeypatch.setattr(Run, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_table("said", rows(3))
    monkeypatch.undo()
    assert not Run.open(tmp_path / "run", SETTINGS, FACTS).finished("said")


NO_RECORDS = {
    "empty": "",
    "a list": "[]",
    "no settings": '{"facts": {}, "versions": {}, "tables": {}}',
    "another key": '{"settings": {}, "facts": {}, "versions": {}, "tables": {}, "more": {}}',
    "a wrong type": '{"settings": [], "facts": {}, "versions": {}, "tables": {}}',
    "no rows": '{"settings": {}, "facts": {}, "versions": {}, "tables": {"a": {"sha256": ""}}}',
    "another place": '{"settings": {}, "facts": {}, "versions": {}, "tables": {}, '
    '"files": {"../a": ""}}',
    "nested": "[" * 10**5,
}


@pytest.mark.parametrize("content", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_run_json_that_is_none(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    for do in (lambda: Run.open(tmp_path, {}, {}), lambda: read_table(tmp_path, "a")):
        with pytest.raises(InputError, match=r"run\.json .*(damaged)"):
            do()


def test_run_json_with_another_value_is_damaged(tmp_path):
    run = Run.open(tmp_path / "run", SETTINGS, FACTS)
    file = run.path / "run.json"
    record = json.loads(file.read_text())
    record["settings"]["seed"] = 1
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        Run.open(run.path, SETTINGS | {"seed": 1}, FACTS)


def test_a_flipped_byte_of_a_state_of_tuning(tmp_path):
    params = {"a": jax.random.normal(jax.random.key(0), (50, 70)), "b": jax.numpy.ones((64,))}
    state = State(jax.numpy.int32(3), params, make_optimizer(1e-3, 1, 9, 0.0, 1.0).init(params))
    folder = tmp_path / "state"
    save_state(folder, 3, (state, checksums(state)))

    def kept():
        loaded = load_checked_state(folder, state)
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(loaded)]

    want = kept()
    assert want == [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    found = [named_or_same(kept, want, file, place, "state") for file, place in flips(folder, 3)]
    assert any(found)


def test_every_bit_of_a_state_counts(tmp_path):
    array = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    sums = {int(checksums(array)[0])}
    for place in range(array.size):
        for bit in range(32):
            changed = array.copy()
            changed.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
            assert int(checksums(changed)[0]) not in sums
    swapped = array[:, ::-1].copy()
    assert int(checksums(swapped)[0]) not in sums


def test_a_sweep_names_a_damaged_part(tiny_path, tmp_path, quick_programs, monkeypatch):
    how = {"limit": 2, "batch_size": 2, "max_new_tokens": 0, "exits": "1"}
    settings = settings_of(Sweep, tiny_path, tmp_path / "run", **how)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish_parts", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sweep(settings)
    for file, _ in flips(tmp_path / "run" / "parts", 1):
        with pytest.raises(InputError, match=file.name):
            sweep(settings)
    assert sweep(settings).record["tables"]["first_token"]["rows"] == 4
