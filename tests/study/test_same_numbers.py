"""Small runs of every kind have the numbers that they had: see tools/same_numbers.py.

A change that is meant to move numbers renews tests/golden/tables.json by `record`, and says in the
changelog which tables changed and why.
"""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("quick_programs")
GOLDEN = Path(__file__).parents[1] / "golden" / "tables.json"
# Of the sum of a column's magnitudes: what processors and compilers may make of the same program.
ROUNDING = 1e-4


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tables_are_those_that_were_recorded(quick, tiny_path, tmp_path, import_tool):
    tool = import_tool("same_numbers")
    tool.make(str(tiny_path), tmp_path, quick)
    tables, expected = tool.summary(tmp_path), json.loads(GOLDEN.read_text())
    if not quick:
        assert tables.keys() == expected.keys()
    made = {"sweep/generations.parquet", "decide/verdicts.parquet", "tune/loss.parquet"}
    assert made <= set(tables)
    for name, columns in tables.items():
        assert columns.keys() == expected[name].keys(), name
        for column, value in columns.items():
            assert_same(value, expected[name][column], f"{name}: {column}")


def assert_same(value, expected, where: str) -> None:
    if isinstance(expected, str):
        assert value == expected, where
        return
    (count, total, magnitude), (old_count, old_total, old_magnitude) = value, expected
    assert count == old_count, where
    room = ROUNDING * max(old_magnitude, 1e-3)
    assert abs(total - old_total) <= room, where
    assert abs(magnitude - old_magnitude) <= room, where
