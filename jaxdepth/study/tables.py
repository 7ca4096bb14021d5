"""Tables of a run, declared once: name, type, unit and meaning of every column.

Each study declares its tables in a `tables.py` of its own; writing, reading and the documentation
go by these declarations.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa

TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list of int32": pa.list_(pa.int32()),
    "list of float32": pa.list_(pa.float32()),
}


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
