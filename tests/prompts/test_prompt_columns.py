"""`--columns`: which columns hold what, where a user says so."""

import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.commands.parsing import parse
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.prompts.sources.columns import Columns, parse_columns
from jaxdepth.study.sweep.settings import Sweep

ROWS = [
    {"question": BREAD, "hint": "Use an oven.", "harm": 0, "kind of it": "x", "nr": 7, "who": "s"},
    {"question": EGG, "hint": None, "harm": 1, "kind of it": "y", "nr": 8, "who": ""},
]


def test_fields_of_columns(tmp_path):
    file = write_file(tmp_path, "a.jsonl", ROWS)
    said = ["prompt=hint+question", "label=harm:1=harmful,0=harmless", "category=kind of it"]
    said += ["id=nr,system=who"]
    one, two = read_prompts([file], said)
    assert (one.text, one.label, one.category) == (f"Use an oven.\n\n{BREAD}", "harmless", "x")
    assert (two.text, two.label, two.category) == (EGG, "harmful", "y")
    assert (one.prompt_id, one.system, two.system) == ("a-7", "s", None)


def test_options_and_settings_files(tmp_path):
    said = ("prompt=question", "label=harm:1=harmful,0=harmless")
    config = tmp_path / "mine.toml"
    config.write_text(f"prompts = ['a.csv']\ncolumns = {list(said)}\n")
    for words in (["--columns", *said], ["--config", str(config)]):
        assert parse(Sweep, ["model", *words], "sweep").prompts.columns == said


def test_one_text_may_give_several_fields():
    said = parse_columns(
        ["prompt=question, label=harm:1=harmful,yes=harmful,0=unlabelled,drop=a+b"]
    )
    assert said.columns_of == {"prompt": ("question",), "label": ("harm",), "drop": ("a", "b")}
    assert said.labels == {"1": "harmful", "yes": "harmful", "0": None}
    assert parse_columns([r"prompt=a\,b\+c\:d", "system=", "drop=x", "drop=y"]) == Columns(
        {"prompt": ("a,b+c:d",), "system": (), "drop": ("x", "y")}
    )


WRONG = {
    "promt=question": "did you mean 'prompt'",
    "question": "expected FIELD=COLUMN",
    "prompt=a,prompt=b": "prompt twice",
    "label=a+b": "only prompt and drop take several",
    "label=harm:1": "names no label; expected VALUE=LABEL",
    "label=harm:1=maybe": "names no label",
    "messages=chat:last=first": "expected last=answer",
    "prompt=a:b=c": "only values of label and messages",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_cannot_be_parsed(text):
    with pytest.raises(InputError, match=WRONG[text]):
        parse_columns([text])


def test_columns_that_a_file_lacks(tmp_path):
    file = write_file(tmp_path, "a.jsonl", ROWS)
    other = write_file(tmp_path, "other.csv", f"goal,target\n{BREAD},Sure\n")
    with pytest.raises(InputError, match=r"names goal, which .*a.jsonl lacks; it has question"):
        read_prompts([file, other], ["prompt=question", "label=goal"])
    with pytest.raises(InputError, match=r"querstion, which no file has; did you mean 'question'"):
        read_prompts([file], ["prompt=querstion", "drop=hint"])
    with pytest.raises(InputError, match="line 1: harm is '0', to which --columns gives no label"):
        read_prompts([file], ["prompt=question", "drop=hint", "label=harm:1=harmful"])
    prompts = read_prompts([file, other], ["prompt=question", "drop=hint+harm"])  # each by its own
    assert [p.label for p in prompts] == [None, None, "harmful"]
    read_prompts(["builtin:facts"], ["prompt=question"])
