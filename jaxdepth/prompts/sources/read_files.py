"""Rows of one file, by its ending."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.errors import InputError, one_line
from jaxdepth.prompts.sources.delimited import read_delimited
from jaxdepth.prompts.sources.json_rows import read_json_lines, read_json_list
from jaxdepth.prompts.sources.rows import Row, make_row

_MAX_BYTES = 2**30  # of text
_ROWS_AT_ONCE = 1024
# Starts of files that are no text, what they are, and how they are read.
_MAGIC = (
    (b"\x1f\x8b", "gzip", "name it with .gz at the end"),
    (b"PAR1", "Parquet", "name it .parquet"),
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "save the sheet as CSV, or unpack it"),
    (b"ARROW1", "Arrow", "name it .arrow"),
)
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


def _text_lines(text: str, where: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Row(f"{where}, line {number}", {"prompt": line})


_OF_TEXT: dict[str, Callable[[str, str], Iterator[Row]]] = {
    ".csv": read_delimited,
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_list,
    ".txt": _text_lines,
}
_OF_TABLES = (".parquet", ".arrow")
SUFFIXES = (*_OF_TEXT, *_OF_TABLES)


def split_name(path: Path) -> tuple[str, str]:
    """A file's name without its endings, and its ending without `.gz`; both of the last."""
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    inner = Path(name)
    return inner.stem, inner.suffix.lower()


def read_rows(path: Path, where: str) -> Iterator[Row]:
    """The rows of a file, one after another.

    Args:
        path: a file.
        where: names it in messages.

    Raises:
        InputError: its ending is not known, it is too large, damaged, or no text in UTF-8.
    """
    suffix = split_name(path)[1]
    if suffix not in SUFFIXES:
        raise InputError(f"{where}: expected a {', '.join(SUFFIXES)} file, or one of them as .gz")
    stream: BinaryIO
    with path.open("rb") as stream:
        if path.name.lower().endswith(".gz"):
            stream = io.BytesIO(_unpack(stream, where))
        if suffix in _OF_TABLES:
            yield from _read_table(stream, suffix, where)
            return
        content = stream.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise InputError(f"{where} has more than {_MAX_BYTES:,} bytes of text")
    yield from _OF_TEXT[suffix](_decode(content, suffix, where), where)


def _unpack(stream: BinaryIO, where: str) -> bytes:
    try:
        content = gzip.GzipFile(fileobj=stream).read(_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where} is no whole gzip file ({one_line(error)})") from None
    if len(content) > _MAX_BYTES:
        raise InputError(f"{where} unpacks to more than {_MAX_BYTES:,} bytes")
    return content


def _decode(content: bytes, suffix: str, where: str) -> str:
    for magic, kind, remedy in _MAGIC:
        if content.startswith(magic):
            raise InputError(f"{where} is {kind}, not {suffix[1:].upper()}: {remedy}")
    encoding = next((name for bom, name in _BOMS if content.startswith(bom)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{where} is not UTF-8 text (line {line}: {error.reason}): save it as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_table(stream: BinaryIO, suffix: str, where: str) -> Iterator[Row]:
    number = count(1)
    try:
        for batch in _batches(stream, suffix):
            for values in batch.to_pylist():
                place = f"{where}, row {next(number)}"
                yield make_row(place, values.items())
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where} cannot be read as {suffix[1:].capitalize()} ({one_line(error)}): it is "
            "damaged, or another kind of file"
        ) from None


def _batches(stream: BinaryIO, suffix: str) -> Iterator[pa.RecordBatch]:
    if suffix == ".parquet":
        yield from pq.ParquetFile(stream).iter_batches(_ROWS_AT_ONCE)
        return
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    if is_file:
        reader = pa.ipc.open_file(stream)
        whole = (reader.get_batch(n) for n in range(reader.num_record_batches))
    else:
        whole = iter(pa.ipc.open_stream(stream))
    for batch in whole:
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield batch.slice(start, _ROWS_AT_ONCE)
