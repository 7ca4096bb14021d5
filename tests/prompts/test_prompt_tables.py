"""Tables as spreadsheets and people write them: read whole, or refused by file and row."""

import gzip
import json

import pyarrow as pa
import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts

TWO = [{"prompt": BREAD, "label": "safe"}, {"prompt": EGG, "label": "safe"}]
COMMA = "Write a story, in three parts, about bread"
FILES = {
    "CSV": ("a.csv", f"prompt,label\n{BREAD},safe\n{EGG},safe\n"),
    "semicolons": ("a.csv", f"prompt;label\n{BREAD};safe\n{EGG};safe\n"),
    "tabs in a CSV": ("a.csv", f"prompt\tlabel\n{BREAD}\tsafe\n{EGG}\tsafe\n"),
    "TSV": ("a.tsv", f"prompt\tlabel\n{BREAD}\tsafe\n{EGG}\tsafe\n"),
    "Excel's rows of nothing": (
        "a.csv",
        f"\ufeffprompt,label,,\r\n{BREAD},safe,,\r\n,,,\r\n{EGG},safe,,\r\n,,,\r\n",
    ),
    "Excel's sep= line": ("a.csv", f"sep=;\r\nprompt;label\r\n{BREAD};safe\r\n{EGG};safe\r\n;\r\n"),
    "Excel's Unicode text": (
        "a.tsv",
        f"prompt\tlabel\r\n{BREAD}\tsafe\r\n{EGG}\tsafe\r\n".encode("utf-16"),
    ),
    "spaces after commas": ("a.csv", f'prompt, label\n{BREAD}, safe\n"{EGG}", safe\n'),
    "a column of row numbers": ("a.csv", f",prompt,label\n0,{BREAD},safe\n1,{EGG},safe\n"),
    "an empty line above": ("a.csv", f"\nprompt,label\n{BREAD},safe\n\n{EGG},safe\n"),
    "JSON Lines": ("a.jsonl", TWO),
    "NDJSON": ("a.ndjson", TWO),
    "JSON": ("a.json", TWO),
    "JSON Lines called JSON": ("a.json", "\n".join(map(json.dumps, TWO))),
    "a list in an object": ("a.json", {"version": "1", "data": TWO}),
    "a list a column": ("a.json", {"prompt": [BREAD, EGG], "label": ["safe", "safe"]}),
    "the hub's viewer": ("a.json", {"rows": [{"row_idx": n, "row": r} for n, r in enumerate(TWO)]}),
    "Parquet": ("a.parquet", TWO),
    "gzip of CSV": ("a.csv.gz", f"prompt,label\n{BREAD},safe\n{EGG},safe\n"),
    "gzip of JSON Lines": ("a.jsonl.gz", TWO),
}


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_table(tmp_path, name):
    prompts = read_prompts([write_file(tmp_path, *FILES[name])])
    assert [(p.prompt_id, p.text, p.label) for p in prompts] == [
        ("a-0001", BREAD, "harmless"),
        ("a-0002", EGG, "harmless"),
    ]
    assert [p.text for p in read_prompts([f"{tmp_path / FILES[name][0]}[:1]"])] == [BREAD]


def test_text_files_and_arrow_files(tmp_path):
    file = write_file(tmp_path, "a.txt.gz", f"{BREAD}\r\n\r\n{EGG}")
    assert [p.text for p in read_prompts([file])] == [BREAD, EGG]
    table = pa.Table.from_pylist(TWO)
    for number, open_writer in enumerate((pa.ipc.new_file, pa.ipc.new_stream)):
        file = str(tmp_path / f"{number}.arrow")
        with open_writer(file, table.schema) as writer:
            writer.write_table(table)
        assert [p.text for p in read_prompts([file])] == [BREAD, EGG]


def test_quoted_texts_stay_whole(tmp_path):
    text = f'{COMMA};\n"quoted"\twith a tab,\n and a line that begins with a space'
    quoted = '"' + text.replace('"', '""') + '"'
    for mark in (",", ";"):
        file = write_file(tmp_path, "a.csv", f'prompt{mark}label\n{quoted}{mark}" safe"\n')
        assert [p.text for p in read_prompts([file])] == [text]


CUT = {
    "one column": (f"prompt\n{BREAD}\n{COMMA}\n", "row 2 has 3 values, expected 1"),
    "the last column": (f"label,prompt\nsafe,{BREAD}\nsafe,{COMMA}\n", "row 2 has 4 values"),
    "the next column is free": (
        f"prompt,category\n{BREAD},food\nWrite a story, in parts\n",
        r"row 2: ' in parts' follows a text after a comma",
    ),
    "a word": (f"prompt,category\n{BREAD},food\nBake, please\n", r"row 2: ' please' follows"),
    "a line break": (
        f"prompt,label\n{BREAD},safe\nWrite a story\nof bread,safe\n",
        "row 2 has 1 val",
    ),
    "semicolons": (f"prompt;label\n{BREAD};safe\nWrite; not much;safe\n", "row 2 has 3 values"),
    "an open quote": (f'prompt,label\n{BREAD},safe\n"{EGG},safe\n', r"not valid CSV \(line 3: "),
    "after an empty row": (f"prompt\n\n{BREAD}\n{COMMA}\n", r"row 2 \(line 4\) has 3 values"),
}


@pytest.mark.parametrize("name", CUT)
def test_a_text_that_a_comma_cuts_is_refused_by_row(tmp_path, name):
    content, message = CUT[name]
    with pytest.raises(InputError, match=f"asked.csv.*{message}"):
        read_prompts([write_file(tmp_path, "asked.csv", content)])


BAD = {
    "NUL": ("a.jsonl", [{"prompt": BREAD}, {"prompt": "a\0b"}], "a.jsonl, line 2: .*NUL"),
    "half a surrogate pair": (
        "a.jsonl",
        '{"prompt": "a"}\n{"prompt": "\\ud83d"}\n',
        "line 2: .*half",
    ),
    "a surrogate in an id": ("a.json", '[{"prompt": "a", "id": "\\ud83d"}]', "row 1: id .*half"),
    "a blank prompt": ("a.txt.gz", "", "no prompts"),
    "an empty cell": (
        "a.csv",
        f"id,prompt\n1,{BREAD}\n2,\n",
        "row 2: the prompt in column .* empty",
    ),
    "a null": ("a.parquet", [{"text": BREAD}, {"text": None}], "a.parquet, row 2: .* is empty"),
    "a number": ("a.parquet", [{"text": 3}], r"row 1: .*is a number \(3\), expected text"),
    "no text": ("a.csv", gzip.compress(b"prompt\nx\n"), "is gzip, not CSV: name it with .gz"),
    "a workbook": ("a.csv", b"PK\x03\x04xlsx", "Excel workbook .*save the sheet as CSV"),
    "Parquet by another name": ("a.csv", b"PAR1....", "is Parquet, not CSV: name it .parquet"),
    "another kind": ("a.xlsx", b"PK", "expected a .csv"),
    "half a gzip file": ("a.csv.bin", b"", "expected a .csv"),
    "no Parquet": ("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    "Latin-1": ("a.csv", "prompt\ncaf\xe9\n".encode("latin-1"), r"not UTF-8 text \(line 2"),
    "a column twice": ("a.csv", f"prompt,Prompt\n{BREAD},{EGG}\n", "column prompt is there twice"),
    "several lists": ("a.json", {"train": TWO, "test": TWO}, r"several lists \(train, test\)"),
    "two ids": ("a.csv", f"id,prompt\n1,{BREAD}\n1,{EGG}\n", "a-1 is in .*row 1 and in .*row 2"),
    "an id that is a list": ("a.json", [{"id": [1], "prompt": "a"}], "row 1: id .*--columns id="),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named_by_file_and_row(tmp_path, name):
    file, content, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        read_prompts([write_file(tmp_path, file, content)])
    assert "a." in str(caught.value)


def test_a_gzip_file_that_is_cut(tmp_path):
    whole = gzip.compress(f"prompt\n{BREAD}\n".encode())
    for content in (whole[:-9], b"prompt"):
        (tmp_path / "asked.csv.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"asked.csv.gz is no whole gzip file"):
            read_prompts([str(tmp_path / "asked.csv.gz")])


def test_files_of_one_name_are_told_apart(tmp_path):
    names = ("one/asked.csv", "two/asked.csv", "two/asked.jsonl", "two/other.csv")
    contents = (f"prompt\n{BREAD}\n", f"prompt\n{EGG}\n", [{"prompt": "Why?"}], "prompt\nHow?\n")
    files = [write_file(tmp_path, *one) for one in zip(names, contents, strict=True)]
    prompts = read_prompts([f"harmless={files[0]}", *files[1:]])
    assert [p.prompt_id for p in prompts] == [
        "one-asked-0001",
        "two-asked.csv-0001",
        "asked.jsonl-0001",
        "other-0001",
    ]
    assert [p.source for p in prompts] == [
        "one/asked.csv",
        "two/asked.csv",
        "asked.jsonl",
        "other.csv",
    ]
    with pytest.raises(InputError, match=r"asked-0001 is in .*row 1 and in .*row 1; give each"):
        read_prompts([files[0], files[0]])


def test_rows_without_ids_have_their_number(tmp_path):
    rows = [{"prompt": "a", "id": "x"}, {"prompt": "b"}, {"prompt": "c", "id": None}]
    prompts = read_prompts([write_file(tmp_path, "a.jsonl", rows)])
    assert [p.prompt_id for p in prompts] == ["a-x", "a-0002", "a-0003"]
