"""`python:FILE.py:function`: a user's function as a judge."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxdepth.errors import InputError, listed, nearest, one_line
from jaxdepth.files import file_digest
from jaxdepth.judges.verdict import NamedJudge, Pair, Verdict
from jaxdepth.refusal.outcome import ask


class OwnJudge(NamedJudge):
    """A function from texts and prompts to outcomes."""

    def __init__(self, name: str, identity: str, function: Callable) -> None:
        super().__init__(name, identity)
        self.function = function
        self.judges_topic = bool(getattr(function, "judges_topic", False))

    def ask_pairs(self, pairs: Sequence[Pair]) -> list[Verdict]:
        prompts, texts = ([pair[n] for pair in pairs] for n in (0, 1))
        try:
            answers = ask(self.function, texts, prompts)
        except InputError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"the judge {self.name} raised {type(error).__name__} on {len(pairs)} answers "
                f"({one_line(error)})"
            ) from error
        words = [None if answer is None else str(answer) for answer in answers]
        return [Verdict(word, word, None) for word in words]


def open_own(spec: str) -> OwnJudge:
    """Load a function from FILE.py:function; its identity is a digest of the file and the name.

    The file is the user's program: it is run.

    Raises:
        InputError: there is no such file or function, or the file cannot be run.
    """
    path, colon, name = spec.rpartition(":")
    file = Path(path)
    if not colon or not name.isidentifier():
        raise InputError(f"python:{spec} is no judge: expected python:FILE.py:function")
    if not file.is_file():
        raise InputError(f"{file} is not a file: expected python:FILE.py:function")
    digest = file_digest(file)
    module_spec = importlib.util.spec_from_file_location(f"judge_{digest[:12]}", file.resolve())
    if module_spec is None or module_spec.loader is None:
        raise InputError(f"{file} is no Python file: expected python:FILE.py:function")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # where dataclasses look for the module of their class
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"{file} cannot be run ({reason})") from None
    function = getattr(module, name, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise InputError(
            f"{file} has no function {name}{nearest(name, names)}; it has {listed(names) or 'none'}"
        )
    identity = hashlib.sha256(f"{digest} {name}".encode()).hexdigest()
    return OwnJudge(f"python:{file.name}:{name}", identity, function)
