"""Rows of CSV and TSV files, as spreadsheets, programs and people write them."""

import csv
from collections.abc import Iterator
from itertools import pairwise

from jaxdepth.errors import InputError
from jaxdepth.prompts.sources.labels import read_label
from jaxdepth.prompts.sources.published import PROMPT
from jaxdepth.prompts.sources.rows import Row, make_row

_DELIMITERS = (",", ";", "\t")
_MAX_CELL = 2**24  # characters; the default of the csv module is 2**17


def read_delimited(text: str, where: str, delimiter: str | None = None) -> Iterator[Row]:
    """The rows below the first, which names the columns; empty rows are left out.

    Args:
        text: of the file.
        where: the file, for messages.
        delimiter: by default that of the `sep=` line that Excel writes, else the one of comma,
            semicolon and tab that the first row has most of.

    Raises:
        InputError: a row has more or fewer values than the first, as an unquoted comma, quote or
            line break gives; or it is no CSV at all.
    """
    first, _, rest = text.partition("\n")
    if first.strip().strip('"').lower().startswith("sep=") and len(first.strip().strip('"')) <= 5:
        delimiter, text = first.strip("\r\n").strip('"')[4:] or "\t", rest
    header_line = text.lstrip("\n").partition("\n")[0]
    if delimiter is None:
        delimiter = max(_DELIMITERS, key=lambda mark: _count(header_line, mark))
    has_spaces = f"{delimiter} " in header_line
    rows = _cells(text, where, delimiter, has_spaces)
    names: list[str] = []
    number = 0
    for line, raw, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if not names:
            names = _trimmed(cells)
            continue
        number += 1
        place = f"{where}, row {number}" + (f" (line {line})" if line != number + 1 else "")
        yield make_row(place, _pair(names, cells, raw, place, delimiter))


def _cells(
    text: str, where: str, delimiter: str, skips_spaces: bool
) -> Iterator[tuple[int, str, list[str]]]:
    """The line on which each row begins, its text, and its cells."""
    previous = csv.field_size_limit(_MAX_CELL)
    lines: list[str] = []  # of the row that is being read

    def feed() -> Iterator[str]:
        for line in text.split("\n"):
            lines.append(f"{line}\n")
            yield lines[-1]

    reader = csv.reader(feed(), delimiter=delimiter, skipinitialspace=skips_spaces, strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, "".join(lines), cells
            line, lines[:] = reader.line_num + 1, []
    except csv.Error as error:
        raise InputError(f"{where} is not valid CSV (line {line}: {error})") from None
    finally:
        csv.field_size_limit(previous)


def _count(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error:
        return 0


def _trimmed(cells: list[str]) -> list[str]:
    """The cells without the empty ones at the end, which spreadsheets add."""
    count = max(n for n, cell in enumerate(cells, 1) if cell.strip())
    return cells[:count]


def _pair(
    names: list[str], cells: list[str], raw: str, place: str, delimiter: str
) -> Iterator[tuple[str, str]]:
    mark = {",": "comma", ";": "semicolon", "\t": "tab"}.get(delimiter, repr(delimiter))
    remedy = f'put texts that hold a {mark}, a quote or a line break into "..."'
    if len(_trimmed(cells)) > len(names) or len(cells) < len(names):
        raise InputError(
            f"{place} has {len(cells)} values, expected {len(names)} ({', '.join(names)[:60]}): "
            f"{remedy}"
        )
    for name, (before, cell) in zip(names, pairwise(cells), strict=False):
        # `Write a story, in three parts` is two cells, and half a prompt would be read.
        is_text = " " in before.strip() or name.strip().lower() in PROMPT
        is_text = is_text and before.strip()[-1:] not in ".?!" and delimiter != "\t"
        is_plain = cell[:1] == " " and bool(cell.strip()) and f"{delimiter}{cell}" in raw
        if is_text and is_plain and read_label(cell) is None:
            raise InputError(f"{place}: {cell[:40]!r} follows a text after a {mark}: {remedy}")
    for n, (name, cell) in enumerate(zip(names, cells, strict=False)):
        yield name.strip() or f"unnamed: {n}", cell
