"""The one exception for bad input: a single line that a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches

_MAX_LENGTH, _KEPT_END = 480, 195  # characters of a message, and of its end if it is shortened


class InputError(ValueError):
    """Something that the user gave is wrong.

    The message is one line: what was found, what was expected, what to do. The command line prints
    it without a traceback and exits with status 2. It may quote names and values from a stranger's
    file, so a long message loses its middle, and unprintable characters are escaped.
    """

    def __init__(self, message: str):
        message = visible(message)
        if len(message) > _MAX_LENGTH:
            start = message[: _MAX_LENGTH - _KEPT_END - len(" ... ")]
            message = f"{start} ... {message[-_KEPT_END:]}"
        super().__init__(message)


def visible(text: str) -> str:
    """A text with every unprintable character escaped, so that no terminal obeys it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(name: str, options: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the option most like `name`, or nothing if none is like it."""
    close = get_close_matches(name, list(options), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def listed(names: Iterable[str], max_names: int = 3) -> str:
    """The first names, then how many more there are, for a line of text."""
    names = list(names)
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more


def at_least(minimum: float, **values: float | None) -> None:
    """Check numbers by their names; None is not checked.

    Raises:
        InputError: names the first that is below the minimum, or NaN.
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise InputError(f"{name} is {value}, expected at least {minimum}")


def within(minimum: float, maximum: float, **values: float | None) -> None:
    """`at_least`, and at most a maximum: larger values would fill the memory, or never end.

    Raises:
        InputError: names the first that is out of range, or NaN.
    """
    at_least(minimum, **values)
    for name, value in values.items():
        if value is not None and not value <= maximum:
            raise InputError(f"{name} is {value}, expected at most {maximum:,}")


def one_line(error: Exception) -> str:
    """The start of another library's error message, or its type if it has none, on one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
