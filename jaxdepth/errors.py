"""The one exception for bad input: one line that a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches

_MOST = 480  # characters of a message


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what was found, what was expected, what to do. The command line prints
    it without a traceback and exits with status 2. Names and values in it may be a stranger's: what
    is long loses its middle, and nothing but visible text is kept as it is.
    """

    def __init__(self, message: str):
        message = visible(message)
        if len(message) > _MOST:
            message = f"{message[: _MOST - 200]} ... {message[-195:]}"
        super().__init__(message)


def visible(text: str) -> str:
    """A text with what a terminal would not show as itself, or obey, written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, or nothing if none is close."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str], most: int = 3) -> str:
    """Some names for an error line: the first few, then how many more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def at_least(least: float, **values: float | None) -> None:
    """Raises InputError for the first number that is less, or no number; None is left out."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise InputError(f"{name} is {value}, expected at least {least}")
