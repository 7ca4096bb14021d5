"""What run.json holds, key by key: what is read again of a run must have these types."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

from jaxdepth.errors import InputError
from jaxdepth.model.config import MAX_LAYERS
from jaxdepth.ranges import COUNT, POSITIVE, PROBABILITY, SEED, Range, check_range
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
    prompts: list[str]
    chat_template: bool
    depth: Annotated[int, Range(1, MAX_LAYERS)]
    opens_thought: bool
    markers: MarkersRecord
    python: str


class Resolved(TypedDict, total=False):
    """Resolved settings: what is read again of them."""

    command: str
    seed: Annotated[int, SEED]
    protocol: dict[str, Any] | None
    dtype: str | None
    adapter_sha256: str | None
    model_fingerprint: str
    answer_tokens: Annotated[int | None, Range(0)]


class OfCommand(Resolved, total=False):
    """Those of a run that names its command, as all do but those of `tune`."""

    exits: Annotated[list[int], Range(1, MAX_LAYERS)]
    positions: list[str]
    judge: str | None
    date: str | None
    encoder_sha256: str | None
    prompts_sha256: str
    int8: bool
    keep_text: bool
    system: str | None
    system_prompt: str | None
    max_new_tokens: Annotated[int, Range(0)]
    samples: Annotated[int, COUNT]
    votes: Annotated[int, COUNT]
    temperature: Annotated[float | None, Range(0)]
    top_k: Annotated[int | None, COUNT]
    top_p: Annotated[float | None, PROBABILITY]
    stop: list[str]
    openers: list[str] | dict[str, Any]
    verdict_temperature: Annotated[float, POSITIVE]
    refuse_from: Annotated[float | None, PROBABILITY]
    caution_from: Annotated[float | None, PROBABILITY]
    abstain_below: Annotated[float, PROBABILITY]


class TableRecord(TypedDict):
    """A finished table."""

    rows: int
    sha256: str


class RunRecord(TypedDict):
    """What run.json holds, without its own digest."""

    settings: dict[str, Any]  # `OfCommand` or `Resolved`
    facts: dict[str, Any]  # `Provenance`
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
    of_settings = OfCommand if "command" in checked["settings"] else Resolved
    parts: dict[str, type] = {"settings": of_settings, "facts": Provenance}
    for part, cls in parts.items():
        where = f"{file}: {part}"
        values: dict[str, Any] = read_record_as(cls, checked[part], where, remedy)
        for name, value in values.items():
            check_range(cls, name, value, f"{where}: ")
        checked[part] = _Part(file, values)
    return checked


class _Part(dict):
    """Settings or provenance of a run; what is missing there is an error of one line."""

    def __init__(self, file: Path, values: Mapping):
        super().__init__(values)
        self.file = file

    def __missing__(self, name: str):
        raise InputError(
            f"{self.file} says nothing of {name}: it is damaged, or of another command"
        )
