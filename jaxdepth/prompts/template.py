"""Render chat templates, which are untrusted programs, in a process of their own.

The sandbox of transformers protects the machine's files and processes from a template, but not its
time and memory: `{{ 10**10**10 }}` is one operation that nothing in its own process can interrupt.
So a child (template_child.py) renders, with limits, and is killed if it takes too long.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer

# For all conversations of one call, after the child's imports: those can be slow where the machine
# is busy, and the template does not cause that.
_SECONDS = 10
_START_SECONDS = 120
_MEBIBYTES = 512
_CHARACTERS = 1_000_000

# Days that differ in every part of a date, in the weekday too.
_DATES = ("2019-01-02", "2026-12-25")

_CHILD = Path(__file__).with_name("template_child.py")


class Rendered(NamedTuple):
    """One rendered conversation: its text, or None and the reason why not."""

    text: str | None
    reason: str | None


def render(
    tokenizer: FastTokenizer,
    conversations: Sequence[tuple[list[dict], bool]],
    date: str | None = None,
) -> list[Rendered]:
    """Render conversations with a tokenizer's chat template.

    Args:
        tokenizer: a transformers tokenizer that has a chat template.
        conversations: the messages of each, and whether the generation prompt comes after them.
        date: the day that the template is told, as YYYY-MM-DD, at midnight; by default now.

    Returns:
        One item per conversation. A text is that of
        `tokenizer.apply_chat_template(..., tokenize=False)`. A conversation that the template
        refuses does not keep the others from being rendered.

    Raises:
        InputError: the template took too long, too much memory or too many characters, or cannot
            be rendered at all.
    """
    request = {
        "template": _source(tokenizer),
        "variables": tokenizer.special_tokens_map,
        "conversations": conversations,
        "date": date,
        "seconds": _SECONDS,
        "bytes": _MEBIBYTES << 20,
        "characters": _CHARACTERS,
    }
    return list(_answer(json.dumps(request)))


def prints_date(tokenizer: FastTokenizer, conversations: Sequence[tuple[list[dict], bool]]) -> bool:
    """Whether what a chat template renders depends on the day; arguments and errors as `render`."""
    return any(which_print_date(tokenizer, conversations))


def which_print_date(
    tokenizer: FastTokenizer, conversations: Sequence[tuple[list[dict], bool]]
) -> list[bool]:
    """For each conversation, whether it depends on the day; arguments and errors as `render`."""
    if "strftime_now" not in _source(tokenizer):  # the only clock that a template is given
        return [False] * len(conversations)
    one, other = (render(tokenizer, conversations, date) for date in _DATES)
    return [a != b for a, b in zip(one, other, strict=True)]


def _source(tokenizer: FastTokenizer) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:  # several templates, and none of them the default
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the chat template cannot be rendered ({reason})") from None


@lru_cache(maxsize=128)
def _answer(request: str) -> tuple[Rendered, ...]:
    """Render in a new child process; the same request is rendered once."""
    # The child must import the transformers of this process. -P: nothing is imported from its own
    # folder.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", _CHILD],
            env=environment,
            bufsize=0,  # so that nothing after the first line is read with it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal to this process's group is not for the child
        )
    except OSError as error:
        reason = f"no process can be started to render the chat template ({error})"
        raise InputError(reason) from None
    with child:
        try:
            return _exchange(child, request)
        finally:
            _kill(child)


def _exchange(child: subprocess.Popen, request: str) -> tuple[Rendered, ...]:
    """Send a request to a child that has announced itself, and read its reply."""
    timer = threading.Timer(_START_SECONDS, _kill, [child])
    timer.start()
    try:
        ready = any(line.split() == [b"ready"] for line in child.stdout or ())
    finally:
        timer.cancel()
    if not ready:
        raise InputError(
            "the process that renders the chat template ended, or was not ready in "
            f"{_START_SECONDS} seconds: is the machine out of memory?"
        )
    try:
        answer, _ = child.communicate(request.encode("ascii"), timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError(f"the chat template took longer than {_SECONDS} seconds") from None
    if child.returncode:
        raise InputError(
            f"the chat template cannot be rendered (its process ended with {child.returncode})"
        )
    reply = json.loads(answer)
    if reply == "memory":
        raise InputError(f"the chat template takes more than {_MEBIBYTES} MiB of memory")
    if reply == "characters":
        raise InputError(f"the chat template writes more than {_CHARACTERS:,} characters")
    return tuple(Rendered(**one) for one in reply)


def _kill(child: subprocess.Popen) -> None:
    """End the child, and what it may have started."""
    if child.poll() is not None:
        return
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it has just ended by itself
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
