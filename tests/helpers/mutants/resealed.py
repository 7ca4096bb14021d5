"""Files that are whole but wrong: random values in them, and their digests made again.

So a careless or hostile tool would write them. Each function damages what it is given in place, or
returns it damaged.
"""

import json
import time

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from jaxdepth.errors import InputError
from jaxdepth.files import save_arrays
from jaxdepth.study.run_directory import Run, _record_digest, read_record
from jaxdepth.weights.checkpoint import _own_digest
from mutants.damage import VALUES, pick, put

SECONDS = 10  # for one use of a mutant
MORE = (
    -1, 10**6, 10**12, 1e39, "nan", "../x", "/dev/zero", "\ud800", "é\u0000", "float7", [None],
    [[1]], [-1], [0.5], [True], {"": {}}, {"x": None}, [{}], ["\ud800"], list(range(10**4)),
)  # fmt: skip
ARRAYS = ("nan", "inf", "-inf", "shape", "more", "less", "ints", "bools", "huge", "empty", "rank")
TOML = (
    "-1", "0", "1e9", "1e400", "nan", "inf", "-inf", "10000000000000000000000", "true", "''",
    "'x'", "[]", "[1]", "['a', 'b', 'c']", "[['a', 'b', 'c']]", "[[]]", "{}", "{a = 1}",
    '"\\u0000"', "1979-05-27", "07:32:00", "[" * 2000 + "]" * 2000, "'" + "x" * 10**5 + "'",
    "9007199254740993", "100000000", "'~'", "'/'", "'.'", "'all'", "'1-99999999999'",
    "'99999999-1'",
    '"\\U0001F600"', "0x10", "[nan]", "['']", "3.0", "1_000_000",
)  # fmt: skip


def refused(uses, where):
    """Whether one of some uses was refused in a clear line; others end well, each within `SECONDS`.

    Args:
        uses: functions.
        where: names the mutant, for a failure.
    """
    is_refused = False
    for use in uses:
        start = time.process_time()
        try:
            use()
        except InputError as error:
            is_refused = True
            text = str(error)
            assert "\n" not in text
            assert 20 < len(text) < 600, text
            text.encode()
        assert time.process_time() - start < SECONDS, where
    return is_refused


def try_many(what, count, seed, check):
    """Check that many mutants, each by its seed, to the end, and fail with those that failed."""
    print(f"{count} resealed {what}, JAXDEPTH_FUZZ_SEED={seed}")
    failed = []
    for number in range(count):
        try:
            check([seed, number])
        except Exception as error:
            failed.append((number, type(error).__name__, str(error)[:200]))
    assert not failed, f"seed {seed}: {len(failed)} of {count}, such as {failed[:5]}"


def harm_tree(tree, rng):
    """Change something somewhere in a tree of JSON."""
    kind = int(rng.integers(4))
    if kind == 0:
        _drop(tree, rng)
    elif kind == 1:
        tree[pick(rng, sorted(tree))] = pick(rng, VALUES + MORE)
    else:
        put(tree, rng, pick(rng, VALUES + MORE))
    return tree


def _drop(tree, rng):
    """Remove a key of the tree, or of an object in it."""
    objects = [tree, *(part for part in tree.values() if isinstance(part, dict) and part)]
    chosen = pick(rng, objects)
    del chosen[pick(rng, sorted(chosen))]


def harm_manifest(folder, rng):
    """A checkpoint's manifest, resealed."""
    file = folder / "jaxdepth.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    harm_tree(manifest, rng)
    file.write_text(json.dumps(manifest | {"sha256": _own_digest(manifest)}))


def harm_run(folder, rng):
    """A run's record, resealed."""
    file = folder / "run.json"
    record = json.loads(file.read_text())
    del record["sha256"]
    harm_tree(record, rng)
    file.write_text(json.dumps(record | {"sha256": _record_digest(record)}))


def harm_tables(folder, rng):
    """One column of one of a run's tables that have rows, resealed."""
    record = read_record(folder)
    name = pick(rng, sorted(name for name, table in record["tables"].items() if table["rows"]))
    table = pq.read_table(folder / f"{name}.parquet")
    place = int(rng.integers(table.num_columns))
    column, kind = table.column_names[place], pick(rng, sorted(COLUMNS))
    changed = COLUMNS[kind](table, column, rng)
    Run(folder, record).write_table(name, changed)


def _with(table, column, values, kind=None):
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, kind))


def _some(table, column, rng, value):
    """The column with another value in one row."""
    values = table[column].to_pylist()
    values[int(rng.integers(len(values)))] = value
    try:
        return _with(table, column, values, table.schema.field(column).type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        return _with(table, column, [None if v is None else str(v) for v in values])


COLUMNS = {
    "dropped": lambda t, c, rng: t.drop_columns([c]),
    "integers": lambda t, c, rng: _with(t, c, range(t.num_rows)),
    "floats": lambda t, c, rng: _with(t, c, [float("nan")] * t.num_rows),
    "texts": lambda t, c, rng: _with(t, c, ["\x1b[2J<b>"] * t.num_rows),
    "bytes": lambda t, c, rng: _with(t, c, [b"\xff"] * t.num_rows),
    "lists": lambda t, c, rng: _with(t, c, [[1]] * t.num_rows),
    "nulls": lambda t, c, rng: _with(t, c, [None] * t.num_rows, t.schema.field(c).type),
    "no type": lambda t, c, rng: _with(t, c, pa.nulls(t.num_rows)),
    "a null": lambda t, c, rng: _some(t, c, rng, None),
    "another": lambda t, c, rng: _some(t, c, rng, pick(rng, ("x", "\u202e", -1, 10**6, 0.5, ""))),
    "twice": lambda t, c, rng: t.append_column(c, t[c]),
    "rows": lambda t, c, rng: pa.concat_tables([t, t.slice(0, 1)]),
    "less": lambda t, c, rng: t.slice(0, t.num_rows - 1),
    "none": lambda t, c, rng: t.slice(0, 0),
    "alike": lambda t, c, rng: _with(t, c, [t[c][0].as_py()] * t.num_rows, t.schema.field(c).type),
}


def harm_arrays(file, rng):
    """A file of `save_arrays`, resealed: its metadata, or one of its arrays."""
    with safe_open(file, framework="np") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        metadata = json.loads(opened.metadata()["jaxdepth"])
    metadata.pop("sha256", None)
    if rng.random() < 0.6:
        fixed = metadata.pop("format")
        metadata = harm_tree(metadata, rng) | {"format": fixed}
    else:
        _harm_array(arrays, rng)
    save_arrays(file, arrays, metadata)


def _harm_array(arrays, rng):
    name, kind = pick(rng, sorted(arrays)), pick(rng, ARRAYS)
    array = arrays[name]
    if kind in ("nan", "inf", "-inf"):
        array = array.copy()
        array.reshape(-1)[int(rng.integers(array.size))] = float(kind)
    elif kind == "shape":
        array = array.reshape(array.shape[::-1])
    elif kind == "more":
        arrays[pick(rng, ("x", "layers.k.a", "head_rows", "lens.a", "\x1b[2J"))] = array
    elif kind == "less":
        del arrays[name]
        return
    elif kind == "rank":
        array = array.reshape(-1)
    else:
        change = {
            "ints": lambda: np.ones(array.shape, np.int32),
            "bools": lambda: np.ones(array.shape, bool),
            "huge": lambda: np.ones((2, *array.shape), ml_dtypes.bfloat16),
            "empty": lambda: np.zeros((0, *array.shape[1:]), np.float32),
        }
        array = change[kind]()
    arrays[name] = array


def harm_toml(text, rng):
    """The value of one key, or of several; returns bytes, which may be no text."""
    lines = text.split("\n")
    keys = [n for n, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    for _ in range(1 + int(rng.integers(2))):
        n = pick(rng, keys)
        lines[n] = lines[n].split(" = ")[0] + " = " + pick(rng, TOML)
    text = "\n".join(lines)
    return (
        text.encode() if rng.random() < 0.9 else f"{text}\n# caf\xe9".encode("latin-1", "replace")
    )


def harm_lines(text, rng):
    """One row of a file of JSON lines; returns bytes, which may be no text."""
    lines = text.rstrip("\n").split("\n")
    n = int(rng.integers(len(lines)))
    kind = int(rng.integers(6))
    if kind == 0:
        return "\n".join(lines).encode("utf-16" if rng.random() < 0.5 else "latin-1", "replace") + (
            b"\xe9\n"
        )
    if kind == 1:
        lines[n] = pick(rng, ("[" * 10**5, "NaN", "[]", "3", "null", '"x"', "{}", '{"a": ' * 9999))
    else:
        row = json.loads(lines[n])
        harm_tree(row, rng)
        lines[n] = json.dumps(row)
    return "\n".join(lines).encode()
