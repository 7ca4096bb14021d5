"""The sample as a CSV file: out, edited in a spreadsheet or tampered with, and back."""

import csv

import pytest
from labelled_runs import session_of, write_run

from jaxdepth import InputError
from jaxdepth.study.labelling.raters import read_raters
from jaxdepth.study.labelling.spreadsheet import export_csv, guard, import_csv, unguard

TEXTS = [
    "=1+1",
    "+1",
    "-x",
    "@cmd",
    "'quoted",
    'a "b", c;=d',
    "two\nlines",
    "=\r\nx",
    "\x1b[2J",
    " é ",
]


def test_cells_are_no_formulas_and_come_back():
    for text in TEXTS:
        cell = guard(text)
        assert not cell.startswith(("=", "+", "-", "@"))
        assert all(c.isprintable() or c == "\n" for c in cell)
        assert unguard(cell) == unguard(guard(text).replace("\n", "\r\n"))
    assert [unguard(guard(text)) for text in TEXTS[:7]] == TEXTS[:7]
    assert guard("=x") == "'=x"
    assert guard("'x") == "''x"


@pytest.fixture
def run(tmp_path):
    return write_run(
        tmp_path / "run", pairs=8, text=lambda row: f"{TEXTS[row['exit']]}\n{row['prompt_id']}"
    )


@pytest.fixture
def exported(run, tmp_path):
    """A session, its file, and the rows of it with a label each."""
    session = session_of(run)
    file = tmp_path / "sample.csv"
    export_csv(session, file)
    rows = list(csv.reader(file.open(encoding="utf-8-sig", newline="")))
    for number, row in enumerate(rows[1:]):
        row[3] = ("refuse", "C", " Off-Topic ", "degenerate")[number % 4]
    return session, file, rows


def save(file, rows, delimiter=",") -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)


def test_a_file_has_only_what_a_rater_may_see(exported):
    session, _, rows = exported
    assert rows[0] == ["id", "prompt", "text", "label"]
    assert [row[0] for row in rows[1:]] == [item.item_id for item in session.items]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_labels_come_back_as_spreadsheets_save_them(exported, delimiter):
    session, file, rows = exported
    save(file, [[cell.replace("\n", "\r\n") for cell in row] for row in rows], delimiter)
    assert import_csv(session, file) == len(session.items)
    labels = [session.label_of(item) for item in session.items]
    assert labels[:4] == ["refuse", "comply", "off-topic", "degenerate"]
    export_csv(session, file)  # with the labels so far
    again = list(csv.reader(file.open(encoding="utf-8-sig", newline="")))
    assert [row[3] for row in again[1:]] == labels


def test_rows_without_a_label_change_nothing(exported):
    session, file, rows = exported
    session.set_labels({rows[1][0]: "partial"})
    for row in rows[1:]:
        row[3] = ""
    rows[2][3] = "u"
    save(file, [*rows, [""] * 4])
    assert import_csv(session, file) == 1
    labels = [session.label_of(item) for item in session.items[:3]]
    assert labels == ["partial", "undetermined", None]


def lines(rows, number: int) -> int:
    """The line on which a row begins: every text of the fixture has line breaks."""
    return 1 + sum(1 + sum(cell.count("\n") for cell in row) for row in rows[:number])


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        (3, "yes", "unknown label 'yes', expected one of refuse, partial"),
        (0, "abc", "unknown id 'abc'"),
        (1, "Other prompt", "the prompt was edited"),
        (2, "Other text", "the text was edited"),
        (0, None, "a second time"),
    ],
)
def test_wrong_rows_are_named_and_nothing_is_imported(exported, column, value, problem):
    session, file, rows = exported
    rows[4] = list(rows[3]) if value is None else rows[4]
    if value is not None:
        rows[4][column] = value
    save(file, rows)
    with pytest.raises(InputError) as error:
        import_csv(session, file)
    assert f"line {lines(rows, 4)}: " in str(error.value)
    assert problem in str(error.value)
    assert str(error.value).endswith("nothing was imported")
    assert session.labelled == 0
    assert read_raters(session.runs[0]) == {}


def test_many_wrong_rows_are_one_line(exported):
    session, file, rows = exported
    for row in rows[1:]:
        row[3] = "?"
    save(file, rows)
    with pytest.raises(InputError, match=rf"and {len(session.items) - 3} more; nothing was") as e:
        import_csv(session, file)
    assert "\n" not in str(e.value)


def test_files_that_are_no_such_csv(exported, tmp_path):
    session, file, rows = exported
    save(file, [row[:3] for row in rows])
    with pytest.raises(InputError, match="lacks the column label"):
        import_csv(session, file)
    save(file, rows[:1])
    with pytest.raises(InputError, match="has no labels"):
        import_csv(session, file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no CSV file in UTF-8"):
        import_csv(session, file)
    with pytest.raises(InputError, match="does not exist: make it with --export"):
        import_csv(session, tmp_path / "none.csv")
    with pytest.raises(InputError, match="no CSV file"):
        import_csv(session, tmp_path)
