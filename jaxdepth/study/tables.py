"""Tables of a run, declared once: name, type, unit and meaning of every column.

Each study declares its tables in a `tables.py` of its own; writing, reading and the documentation
go by these declarations.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.types as kinds

from jaxdepth.errors import InputError, listed

TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list of int32": pa.list_(pa.int32()),
    "list of float32": pa.list_(pa.float32()),
}
# Columns that some tables of 0.1.0 lack; what reads them does without.
LATER = frozenset(
    "band_low band_high calibration_high calibration_low competent corrected corrected_high "
    "corrected_low failed midpoint midpoint_high midpoint_low onset onset_high onset_low "
    "p_calibrated topicality".split()
)
# Keys of rows, counts and truths: columns that have no nulls, unless their meaning speaks of them.
_NEVER_NULL = frozenset(
    "count curve exit failed first group identity judge label layer metric model n policy position "
    "probe prompt_id quadrant rater rule sample second set source stratum stratum_size target text "
    "text_sha256 vote".split()
)


@dataclass(frozen=True)
class Column:
    """One column; its values may be null where `meaning` says so."""

    name: str
    type: str  # a key of `TYPES`
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """One table of a run: NAME.parquet."""

    name: str
    rows_are: str  # what a row stands for, such as "a prompt at an exit"
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(column.name, TYPES[column.type]) for column in self.columns])

    def from_rows(self, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
        """The table of some rows; what a row lacks is null."""
        return pa.Table.from_pylist(list(rows), self.schema)

    def from_columns(self, columns: Mapping[str, Any]) -> pa.Table:
        """The table of whole columns, arrays or lists of one length."""
        return pa.table(
            {field.name: pa.array(columns[field.name], field.type) for field in self.schema},
            self.schema,
        )

    def from_frame(self, frame: pd.DataFrame) -> pa.Table:
        """The table of a data frame with these columns; missing values and NaN become null."""
        return self.from_columns({name: frame[name] for name in self.schema.names})

    def empty(self) -> pa.Table:
        return self.schema.empty_table()

    def check(self, content: pa.Table, where: str) -> None:
        """Raise InputError where a column is missing or of another kind, or a key or count is null.

        Widths of numbers do not matter, nor columns that are not declared.

        Args:
            content: what a file holds, which a stranger may have written.
            where: the file, for messages.
        """
        remedy = "it is damaged, or of another version: run the command again, to another --out"
        missing = [name for name in self.schema.names if name not in content.column_names]
        missing = [name for name in missing if name not in LATER]
        if missing:
            raise InputError(f"{where} lacks the column {listed(missing)}: {remedy}")
        for column in self.columns:
            if content.column_names.count(column.name) != 1:
                if column.name in content.column_names:
                    raise InputError(f"{where} has the column {column.name} twice: {remedy}")
                continue
            found = content[column.name]
            if not _is_kind(found.type, TYPES[column.type]):
                raise InputError(
                    f"{where}: the column {column.name} has the type {found.type}, expected "
                    f"{column.type}: {remedy}"
                )
            if found.null_count and column.name in _NEVER_NULL and "null" not in column.meaning:
                raise InputError(f"{where}: the column {column.name} has nulls: {remedy}")


def _is_kind(found: pa.DataType, declared: pa.DataType) -> bool:
    """Whether a type is of the kind of a declared one."""
    if kinds.is_list(declared):
        is_list = kinds.is_list(found) or kinds.is_large_list(found)
        return is_list and _is_kind(found.value_type, declared.value_type)
    if kinds.is_string(declared):
        return kinds.is_string(found) or kinds.is_large_string(found)
    if kinds.is_boolean(declared):
        return kinds.is_boolean(found)
    if kinds.is_floating(declared):
        return kinds.is_floating(found) or kinds.is_integer(found)
    return kinds.is_integer(found)
