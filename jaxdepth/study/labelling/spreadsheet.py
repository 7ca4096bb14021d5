"""The sample as a CSV file that goes out to a spreadsheet and comes back with labels.

Cells are escaped as on a terminal, but for line breaks. A cell that a spreadsheet would take for a
formula gets an apostrophe in front, and so does one that begins with an apostrophe: the first
apostrophe of a cell is always taken off again.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxdepth.errors import InputError, listed, visible
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.study.atomic_files import atomic_write
from jaxdepth.study.labelling.raters import parse_label
from jaxdepth.study.labelling.session import Item, Session

COLUMNS = ("id", "prompt", "text", "label")
_FORMULA = tuple("=+-@'")


def guard(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, and no terminal obeys."""
    escaped = "\n".join(map(visible, text.replace("\r\n", "\n").split("\n")))
    return f"'{escaped}" if escaped.startswith(_FORMULA) else escaped


def unguard(cell: str) -> str:
    """What `guard` made, without the apostrophe in front; line breaks as it writes them."""
    return cell.replace("\r\n", "\n").replace("\r", "\n").removeprefix("'")


def export_csv(session: Session, file: Path) -> None:
    """Write the texts in their order, with the labels that the rater gave so far."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for item in session.items:
        cells = (item.item_id, item.prompt, item.text, session.label_of(item) or "")
        writer.writerow(map(guard, cells))
    content = buffer.getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    # Excel recognises UTF-8 by its mark; newline="" keeps the line ends of the format.
    atomic_write(file, lambda path: path.write_text(content, encoding="utf-8-sig", newline=""))


def import_csv(session: Session, file: Path) -> int:
    """Take the labels of a file over, all or none; return how many it has.

    A row without a label is left out, and changes no earlier label.

    Raises:
        InputError: it is no such file, or rows have an unknown label or id, an id twice, or a
            prompt or text that was edited; named by their lines.
    """
    items = {item.item_id: item for item in session.items}
    labels: dict[str, str] = {}
    problems = []
    for line, row in _rows(file):
        name = unguard(row["id"]).strip()
        problem = _problem(row, items.get(name), name in labels)
        if problem:
            problems.append(f"line {line}: {problem}")
        elif row["label"].strip():
            labels[name] = str(parse_label(unguard(row["label"])))
    if problems:
        raise InputError(f"{file}: {listed(problems)}; nothing was imported")
    if not labels:
        raise InputError(f"{file} has no labels: fill in its column label")
    session.set_labels(labels)
    return len(labels)


def _problem(row: Mapping[str, str], item: Item | None, is_repeated: bool) -> str:
    """What is wrong with a row, or nothing."""
    if item is None:
        return f"unknown id {row['id']!r}"
    if is_repeated:
        return f"the id {item.item_id} a second time"
    for column, original in (("prompt", item.prompt), ("text", item.text)):
        if unguard(row[column]) != unguard(guard(original)):
            return f"the {column} was edited"
    label = unguard(row["label"])
    if label.strip() and parse_label(label) is None:
        return f"unknown label {row['label']!r}, expected one of {', '.join(Outcome)}"
    return ""


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a file, each with the number of its first line.

    Raises:
        InputError: it cannot be read, or lacks a column.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            content = stream.read()
    except FileNotFoundError:
        raise InputError(f"{file} does not exist: make it with --export") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise InputError(f"{file} is no CSV file in UTF-8: save it as such") from None
    first = content.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)  # spreadsheets of some countries write semicolons
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        missing = [column for column in COLUMNS if column not in header]
        if missing:
            raise InputError(f"{file} lacks the column {missing[0]}: export the sample again")
        line = reader.line_num + 1
        for cells in reader:
            if any(cells):
                padded = cells + [""] * (len(header) - len(cells))
                yield line, dict(zip(header, padded, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from None
