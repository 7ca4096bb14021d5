"""Judges by name, and a user's function in a file."""

import pytest

from jaxdepth import InputError
from jaxdepth.judges.open import FORMS, open_judge

SOURCE = """
from dataclasses import dataclass

@dataclass
class Rule:
    word: str

def judge(texts, prompts=None):
    return ["refuse" if Rule("sorry").word in text else None for text in texts]

def short(texts, prompts=None):
    return ["refuse"]

def wrong(texts, prompts=None):
    return ["maybe"] * len(texts)

def broken(texts, prompts=None):
    return 1 / 0

judge.judges_topic = True
NUMBER = 3
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SOURCE)
    return file


def test_a_function_in_a_file(file):
    judge = open_judge(f"python:{file}:judge")
    assert judge.name == "python:mine.py:judge"
    assert judge.judges_topic
    assert judge(["I'm sorry.", "Paris."], ["p", "q"]) == ["refuse", None]
    assert judge.identity == open_judge(f"python:{file}:judge").identity
    assert judge.identity != open_judge(f"python:{file}:wrong").identity
    file.write_text(SOURCE + "\n")
    assert judge.identity != open_judge(f"python:{file}:judge").identity


def test_no_such_function_is_one_line(file, tmp_path):
    with pytest.raises(InputError, match="is not a file"):
        open_judge(f"python:{tmp_path / 'none.py'}:judge")
    with pytest.raises(InputError, match=r"has no function jugde; did you mean 'judge'\?"):
        open_judge(f"python:{file}:jugde")
    with pytest.raises(InputError, match="has no function NUMBER"):
        open_judge(f"python:{file}:NUMBER")
    with pytest.raises(InputError, match=r"expected python:FILE\.py:function"):
        open_judge(f"python:{file}")
    file.write_text("import no_such_module")
    with pytest.raises(InputError, match=r"cannot be run \(ModuleNotFoundError"):
        open_judge(f"python:{file}:judge")
    file.write_text("def (")
    with pytest.raises(InputError, match=r"cannot be run \(SyntaxError"):
        open_judge(f"python:{file}:judge")


def test_answers_out_of_format_are_one_line(file):
    texts = ["a", "b"]
    for name, says in (
        ("short", "returned 1 outcomes for 2 texts"),
        ("wrong", "unknown outcome: 'maybe'"),
        ("broken", r"mine.py:broken raised ZeroDivisionError on 2 answers \(division by zero\)"),
    ):
        with pytest.raises(InputError, match=says):
            open_judge(f"python:{file}:{name}")(texts, texts)


def test_an_unknown_name_lists_those_there_are():
    assert open_judge("builtin") is None
    with pytest.raises(InputError) as raised:
        open_judge("wildgard:models/w")
    assert "no judge 'wildgard:models/w'; did you mean 'wildguard'?" in str(raised.value)
    assert all(form in str(raised.value) for form in FORMS)
    for spec in ("wildguard", "wildguard:", "builtin:x", "openai", "python"):
        with pytest.raises(InputError, match=f"no judge '{spec}': expected {spec.split(':')[0]}"):
            open_judge(spec)
