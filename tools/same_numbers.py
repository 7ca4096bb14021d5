"""Make small runs of every kind, and compare their tables: did a change move any number?

    python tools/same_numbers.py make MODEL OUT [--quick]   runs of a small checkpoint
    python tools/same_numbers.py compare OUT OTHER [TOLERANCE]   exit status 1 if a table differs
    python tools/same_numbers.py record OUT FILE            digests and sums, to be committed

Make the runs with two versions of the package on one machine, then compare: every value of every
table has to be equal, bit for bit, or floats within a tolerance where one is given. What `record`
writes is for other machines too: columns that are not floats have a digest; columns of floats have
the number of values, their sum and the sum of their magnitudes, which another processor reproduces
up to rounding. The tables of times are left out.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TIMES = {"cost"}  # tables of measured seconds: never the same twice

PROTOCOL = """\
instruction = "Think, then {{close}} {{refuse}}"
again = "Once more"
open = "I"
close = "\\nVerdict:"
verdicts = [{words}]
thought_tokens = 5
answer_tokens = 4
"""


def commands(model: str, out: Path, protocol: str, quick: bool) -> list[list[str]]:
    """The command lines, in order; later ones read what earlier ones wrote."""
    adapter = str(out / "tune" / "adapter.safetensors")
    answers = ["--limit", "4", "--batch-size", "4", "--max-new-tokens", "6"]
    sampled = ["--temperature", "0.9", "--samples", "2", "--top-k", "20", "--exits", "2,4"]
    deciding = ["--protocol", protocol, "--limit", "3", "--batch-size", "4", "--cuts", "0", "2"]
    deciding += ["--exits", "2,4", "--votes", "2", "--temperature", "1.0", "--series", "redecide"]
    tuning = ["--steps", "3", "--save-every", "2", "--rank", "2", "--harmful", "1"]
    tuning += ["--lookalike", "1", "--benign", "1", "--answer-tokens", "8", "--warmup", "1"]
    tuning += ["--exits-per-step", "2", "--learning-rate", "1e-2"]
    probing = ["--positions", "last", "--folds", "3", "--draws", "20", "--limit", "12"]
    probing += ["--strengths", "0.01", "1.0", "--batch-size", "8"]
    policies = ["margin=0.02", "top1=0.02", "saturation=0.9", "oracle", "fixed=2", "patience=2"]
    first = [
        ["sweep", model, *answers, "--out", str(out / "sweep")],
        ["decide", model, *deciding, "--cost-rounds", "0", "--out", str(out / "decide")],
        ["tune", model, *tuning, "--out", str(out / "tune")],
    ]
    if quick:
        return first
    swept = ["--run", str(out / "sweep_for_probe")]
    against = ["--against", adapter, "--control", "builtin:control", "--facts", "builtin:facts"]
    return [
        *first,
        ["sweep", model, *answers, *sampled, "--out", str(out / "sampled")],
        ["sweep", model, *answers, "--adapter", adapter, "--out", str(out / "adapted")],
        ["sweep", model, *answers, "--policy", *policies, "--out", str(out / "policies")],
        ["sweep", model, *answers, "--policy", "margin=0.02", "--caching", "propagate",
         "--decay", "2.0", "--out", str(out / "propagate")],
        ["sweep", model, *answers, "--limit", "12", "--out", str(out / "sweep_for_probe")],
        ["probe", model, *probing, *swept, "--transfer", "builtin:pairs/test[:24]",
         "--out", str(out / "probe")],
        ["sweep", model, *answers, "--steer", "ablate", "--direction", "content.last@2",
         "--directions", str(out / "probe" / "directions.safetensors"),
         "--out", str(out / "steered")],
        ["probe", model, *probing, *against, "--out", str(out / "against")],
    ]  # fmt: skip


def make(model: str, out: Path, quick: bool = False) -> None:
    """Run all commands; raise SystemExit where one fails."""
    from jaxdepth.cli import main

    out.mkdir(parents=True, exist_ok=True)
    protocol = out / "protocol.toml"
    protocol.write_text(PROTOCOL.format(words=json.dumps(verdict_words(model))))
    for words in commands(model, out, str(protocol), quick):
        status = main(words)
        if status:
            sys.exit(f"`jaxdepth {' '.join(words)}` ended with status {status}")


def verdict_words(model: str) -> list[str]:
    """Three words that the tokenizer has as one token each after a line break."""
    import jaxdepth

    _, tokenizer = jaxdepth.load(model)
    words = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        ids = tokenizer.encode(f"\nVerdict: {letter}", add_special_tokens=False)
        before = tokenizer.encode("\nVerdict:", add_special_tokens=False)
        if ids[: len(before)] == before and len(ids) == len(before) + 1:
            words.append(letter)
    return words[:3]


def tables(out: Path) -> dict[str, pa.Table]:
    """Every table below a folder, by its path, without those of times."""
    files = sorted(out.rglob("*.parquet"))
    return {
        file.relative_to(out).as_posix(): pq.read_table(file)
        for file in files
        if file.stem not in TIMES
    }


def differences(out: Path, other: Path, tolerance: float = 0.0) -> list[str]:
    """What differs between the tables of two folders, a line each."""
    first, second = tables(out), tables(other)
    lines = [f"{name} is in one of them only" for name in sorted(first.keys() ^ second.keys())]
    for name in sorted(first.keys() & second.keys()):
        a, b = first[name], second[name]
        if a.column_names != b.column_names or a.num_rows != b.num_rows:
            lines.append(f"{name}: {a.shape} {a.column_names}, not {b.shape} {b.column_names}")
            continue
        for column in a.column_names:
            if digest(a[column]) == digest(b[column]):
                continue
            distance = largest_difference(a[column], b[column])
            if not distance <= tolerance:
                lines.append(f"{name}: {column} differs by up to {distance:.1e}")
    return lines


def largest_difference(a: pa.ChunkedArray, b: pa.ChunkedArray) -> float:
    """Between two columns of floats; infinite for other columns and other missing values."""
    if not pa.types.is_floating(a.type):
        return np.inf
    first, second = (np.array([np.nan if x is None else x for x in c.to_pylist()]) for c in (a, b))
    if (np.isnan(first) != np.isnan(second)).any():
        return np.inf
    with np.errstate(invalid="ignore"):  # two infinities of one sign differ by NaN
        return float(np.nan_to_num(np.abs(first - second)).max())


def digest(column: pa.ChunkedArray) -> str:
    """Of all values in order, floats by their bits."""
    return hashlib.sha256(repr(column.to_pylist()).encode()).hexdigest()[:16]


def summary(out: Path) -> dict:
    """What another machine should reproduce: a digest or sums of each column of each table."""
    record = {}
    for name, table in tables(out).items():
        columns = {}
        for column in table.column_names:
            values = table[column]
            if pa.types.is_floating(values.type):
                array = np.array(values.drop_null().to_pylist(), np.float64)
                array = array[np.isfinite(array)]
                columns[column] = [len(array), float(array.sum()), float(np.abs(array).sum())]
            else:
                columns[column] = digest(values)
        record[name] = columns
    return record


def main(argv: list[str]) -> int:
    match argv:
        case ["make", model, out, *quick] if quick in ([], ["--quick"]):
            make(model, Path(out), bool(quick))
            return 0
        case ["compare", out, other, *tolerance] if len(tolerance) < 2:
            lines = differences(Path(out), Path(other), *map(float, tolerance))
            print("\n".join(lines) or f"the same values in all {len(tables(Path(out)))} tables")
            return bool(lines)
        case ["record", out, file]:
            Path(file).write_text(json.dumps(summary(Path(out)), indent=1, sort_keys=True) + "\n")
            return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
