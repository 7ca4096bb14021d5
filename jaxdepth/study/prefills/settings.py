"""Settings of the axis of prefill lengths."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from jaxdepth.errors import InputError
from jaxdepth.ranges import MAX_INT


@dataclass(frozen=True)
class PrefillAxis:
    """Prefill lengths, as one more axis beside the exits."""

    prefill_tokens: Annotated[str | None, tyro.conf.arg(metavar="N,N,...")] = None
    """Sweep once for each N with the first N tokens of every prompt's prefill (a column, or
    --prefill), such as 0,5,10,25; 0 is without. They give one map of exit depth and prefill
    length; of static exits."""


def check_no_prefills(axis: PrefillAxis) -> None:
    """Raise InputError for prefill lengths that are given with --policy."""
    if axis.prefill_tokens is not None:
        raise InputError("--prefill-tokens is of static exits: leave it out, or --policy")


def parse_lengths(text: str) -> list[int]:
    """The numbers of `--prefill-tokens`, in ascending order.

    Raises:
        InputError: one is no number of tokens, or stands there twice.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) <= MAX_INT for word in words):
        raise InputError(f"prefill_tokens is {text!r}, expected numbers such as 0,5,10,25")
    lengths = sorted(map(int, words))
    if len(set(lengths)) < len(lengths):
        raise InputError(f"prefill_tokens is {text!r}: a number stands there twice")
    return lengths
