"""What run.json holds, key by key: what is read again of a run must have these types."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from jaxdepth.errors import InputError
from jaxdepth.records import read_record_as

_FILE_NAME = re.compile(r"\w[\w.-]*")


class MarkersRecord(TypedDict):
    """Token ids of a protocol; see `refusal.protocol.Markers`."""

    open: list[int]
    close: list[int]
    verdicts: list[int]
    words: list[str]


class Provenance(TypedDict, total=False):
    """Where a run's numbers come from: what is read again of it."""

    model: str
    adapter: str | None
    reference: str | None
    encoder: str | None
    depth: int
    opens_thought: bool
    markers: MarkersRecord
    python: str


class Resolved(TypedDict, total=False):
    """Resolved settings: what is read again of them."""

    command: str
    exits: list[int] | str
    seed: int
    positions: list[str] | str
    protocol: dict[str, Any] | str | None
    judge: str | None
    dtype: str | None
    date: str | None
    encoder_sha256: str | None
    adapter_sha256: str | None
    model_fingerprint: str


class TableRecord(TypedDict):
    """A finished table."""

    rows: int
    sha256: str


class RunRecord(TypedDict):
    """What run.json holds, without its own digest."""

    settings: Resolved
    facts: Provenance
    versions: dict[str, str]
    tables: dict[str, TableRecord]
    files: dict[str, str]


def check_record(record: Mapping, file: Path) -> dict:
    """A record once it has the declared keys and types, and file names that stay within the run.

    Raises:
        InputError: it has others, or a name leads elsewhere.
    """
    remedy = f"{file.name} is damaged, name another run directory"
    checked: Any = read_record_as(RunRecord, record, str(file), remedy)
    names = (*checked["tables"], *checked["files"])
    if set(checked) != set(RunRecord.__annotations__) or not all(map(_FILE_NAME.fullmatch, names)):
        raise InputError(f"{file} is damaged: name another run directory")
    return checked | {part: _Part(file, checked[part]) for part in ("settings", "facts")}


class _Part(dict):
    """Settings or provenance of a run; what is missing there is an error of one line."""

    def __init__(self, file: Path, values: Mapping):
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str):
        raise InputError(
            f"{self.file} says nothing of {name}: it is damaged, or of another command"
        )
