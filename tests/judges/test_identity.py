"""What a run knows of the function that judged it: code, and all that the code depends on."""

import functools
import threading

import numpy as np
import pytest
from studies import settings_of

from jaxdepth import InputError
from jaxdepth.judges.identity import UnknownIdentity, identity_of
from jaxdepth.settings_file import revise
from jaxdepth.study.run_directory import read_table
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import Sweep

LIMIT = 3


def always(answer):
    def judge(texts, prompts=None):
        return [answer] * len(texts)

    return judge


def define(source: str, **scope):
    """The function `judge` that a source defines, in a scope of its own."""
    exec(source, scope)
    return scope["judge"]


class Judge:
    def __init__(self, answer):
        self.answer = answer

    def __call__(self, texts, prompts=None):
        return [self.answer] * len(texts)


def test_equal_functions_have_one_identity():
    assert identity_of(always("refuse")) == identity_of(always("refuse"))
    source = "def judge(texts, prompts=None): return [LIMIT] * len(texts)"
    assert identity_of(define(source, LIMIT=1)) == identity_of(define(f"\n\n{source}", LIMIT=1))
    assert identity_of(Judge("refuse")) == identity_of(Judge("refuse"))
    sets = [frozenset(map(str, range(40))), frozenset(map(str, reversed(range(40))))]
    assert identity_of(always(sets[0])) == identity_of(always(sets[1]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (always("refuse"), always("comply")),  # a closure's value
        (lambda texts: ["refuse"], lambda texts: ["comply"]),  # a constant
        (lambda texts: [1], lambda texts: [True]),
        (lambda texts, a="refuse": [a], lambda texts, a="comply": [a]),  # a default
        (lambda texts, *, a=1: [a], lambda texts, *, a=2: [a]),
        (Judge("refuse"), Judge("comply")),  # an object's state
        (Judge("refuse").__call__, Judge("comply").__call__),
        (functools.partial(always, "a"), functools.partial(always, "b")),
        (always(np.arange(3)), always(np.arange(3.0))),
        (always([{"a": [1]}]), always([{"a": [2]}])),
        (always(always("a")), always(always("b"))),  # a function that it calls
    ],
)
def test_other_functions_have_another(first, second):
    assert identity_of(first) != identity_of(second)


def test_globals_that_the_code_names_count():
    source = "def judge(texts, prompts=None): return [helper(t) for t in texts]\n"
    one, other = (f"{source}\ndef helper(t): return {answer!r}" for answer in ("a", "b"))
    assert identity_of(define(one)) != identity_of(define(other))
    unused = source + "\ndef helper(t): return 'a'\nOTHER = 1"
    assert identity_of(define(one)) == identity_of(define(unused))


def test_modules_of_the_user_count_by_their_files(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    identities = []
    for name, answer in (("rules_one", "a"), ("rules_two", "b")):
        (tmp_path / f"{name}.py").write_text(f"def decide(t): return {answer!r}\n")
        source = f"import {name} as rules\ndef judge(texts, prompts=None): return rules.decide(1)"
        identities += [identity_of(define(source)), identity_of(define(source))]
    assert identities[0] == identities[1]
    assert identities[0] != identities[2]


def test_what_calls_itself_is_digested():
    source = "def judge(texts, prompts=None): return judge(texts[1:]) if texts else []"
    assert identity_of(define(source)) == identity_of(define(source))


def test_an_own_identity_comes_first():
    judge = always(threading.Lock())
    with pytest.raises(UnknownIdentity, match="lock"):
        identity_of(judge)
    judge.identity = "version 3"
    assert identity_of(judge) == "version 3"


def settings(tiny_path, out):
    prompts = out.parent / "asked.txt"
    prompts.write_text("How do I bake bread?\n")
    changes = {"prompts": (f"harmless={prompts}",), "exits": "2", "max_new_tokens": 2}
    return settings_of(Sweep, tiny_path, out, **changes)


def test_a_run_is_not_resumed_with_another_judge(tiny_path, tmp_path, quick_programs):
    """Two functions of one name: the second gets an error, never the outcomes of the first."""
    given = settings(tiny_path, tmp_path / "run")
    run = sweep(given, judge=always("refuse"))
    assert read_table(run.path, "generations")["outcome"].to_pylist() == ["refuse"]
    with pytest.raises(InputError, match="holds a run with judge_identity = "):
        sweep(given, judge=always("undetermined"))
    assert read_table(run.path, "generations")["outcome"].to_pylist() == ["refuse"]
    renamed = always("refuse")
    renamed.__qualname__ = "renamed"
    again = sweep(given, judge=renamed)
    assert again.record["settings"]["judge_identity"] == identity_of(always("refuse"))


def test_a_judge_that_cannot_be_known_judges_a_run_once(tiny_path, tmp_path, quick_programs):
    given, lock = settings(tiny_path, tmp_path / "run"), threading.Lock()

    def judge(texts, prompts=None):
        with lock:
            return ["refuse"] * len(texts)

    sweep(given, judge=judge)
    with pytest.raises(InputError, match=r"cannot be known: it depends on _thread\.lock"):
        sweep(given, judge=judge)
    judge.identity = "locked"
    with pytest.raises(InputError, match="judge_identity = null, not"):
        sweep(given, judge=judge)


def test_a_judge_that_fails_in_the_middle_loses_no_run(tiny_path, tmp_path, capsys, quick_programs):
    given = settings(tiny_path, tmp_path / "run")
    prompts = tmp_path / "asked.txt"
    prompts.write_text("".join(f"How do I bake bread {n}?\n" for n in range(3)))
    calls = []

    def judge(texts, prompts=None):
        calls.append(len(texts))
        return 1 / (len(calls) != 2) and ["refuse"] * len(texts)

    judge.identity = "fails once"
    run = sweep(revise(given, batch_size=1), judge=judge)
    outcomes = read_table(run.path, "generations")["outcome"].to_pylist()
    assert sorted(outcomes) == ["refuse", "refuse", "undetermined"]
    assert (
        "failed on 1 answers, which are undetermined (division by zero)" in capsys.readouterr().err
    )
    with pytest.raises(ZeroDivisionError):  # at once: nothing is lost yet
        sweep(revise(given, out=tmp_path / "other"), judge=lambda texts, prompts: [1 / 0])


def test_one_judge_only(tiny_path, tmp_path):
    changes = {"judge": "python:mine.py:judge"}
    with pytest.raises(InputError, match=r"two judges: the function .* and python:mine.py:judge"):
        sweep(settings_of(Sweep, tiny_path, tmp_path / "run", **changes), judge=always("comply"))
