"""The range of a number among settings, declared with the setting itself.

Every route to settings checks it: the command line, a settings file, keyword arguments, and the
studies themselves, before any work.
"""

import functools
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any

from jaxdepth.errors import InputError

MAX_INT = 2**31 - 1  # of any whole number among settings: sizes are far smaller, seeds may be it


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes; whole ones are at most `MAX_INT`, others are finite."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False  # whether `low` itself is out of range
    open_high: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise InputError unless a value is in the range."""
        high = MAX_INT if isinstance(value, int) and self.high > MAX_INT else self.high
        is_above = value > self.low if self.open_low else value >= self.low
        is_below = value < high if self.open_high else value <= high
        if is_above and is_below and math.isfinite(value):
            return
        low_words = f"{'more than' if self.open_low else 'at least'} {self.low:g}"
        high_words = f"{'less than' if self.open_high else 'at most'} {high:,}"
        if self.open_low and self.open_high:
            expected = f"{low_words} and {high_words}"
        elif is_above and not is_below:
            expected = high_words
        else:
            expected = low_words if math.isfinite(self.low) else "a finite number"
        raise InputError(f"{name} is {value}, expected {expected}")


POSITIVE = Range(0, open_low=True)
SHARE = Range(0, 1, open_low=True, open_high=True)  # a share that is neither none nor all
PROBABILITY = Range(0, 1)
SEED = Range(0)
COUNT = Range(1)


def check_ranges(settings: Any) -> None:
    """Check every number of a dataclass of settings, and of its groups.

    Raises:
        InputError: names the first that is out of its range.
    """
    for name, value in vars(settings).items():
        if is_dataclass(value):
            check_ranges(value)
        else:
            check_range(type(settings), name, value)


def check_range(cls: type, name: str, value: Any, where: str = "") -> None:
    """Check one value of the dataclass `cls`: a number, several, or None.

    Args:
        cls: the dataclass that has the field.
        name: of the field.
        value: for it; what is no number is not looked at.
        where: what precedes the name in an error.

    Raises:
        InputError: a number is out of range.
    """
    declared = ranges_of(cls).get(name)
    if declared is None:
        return
    for number in value if isinstance(value, list | tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            declared.check(f"{where}{name}", number)


@functools.cache
def ranges_of(cls: type) -> Mapping[str, Range]:
    """The range of each field of one dataclass that declares one."""
    hints = typing.get_type_hints(cls, include_extras=True)
    ranges = {name: _range_in(hint) for name, hint in hints.items()}
    return {name: found for name, found in ranges.items() if found is not None}


def _range_in(hint: Any) -> Range | None:
    """The range among the annotations of a type, or of the members of a union."""
    if typing.get_origin(hint) is Annotated:
        return next((extra for extra in hint.__metadata__ if isinstance(extra, Range)), None)
    return next(filter(None, map(_range_in, typing.get_args(hint))), None)
