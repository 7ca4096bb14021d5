"""Numbers in words."""

import numpy as np
from jaxtyping import Bool, Int


def runs_of_exits(exits: Int[np.ndarray, " E"], is_chosen: Bool[np.ndarray, " E"]) -> str:
    """The chosen ones of some exits in words, exactly; `none` if there are none.

    A range `28-30` has every layer from 28 to 30: exits that were not measured, or not chosen, are
    never inside one. Three or more neighbouring exits of a sweep in steps are `16-22 in steps of
    2`. Exits 20, 28, 29 and 30 are `20, 28-30`.

    Args:
        exits: all exits that were measured, in ascending order.
        is_chosen: which of them are named.
    """
    places = np.flatnonzero(is_chosen)
    words, n = [], 0
    while n < len(places):
        first = places[n]
        last = _end_of_run(exits, is_chosen, first)
        step = exits[last] - exits[last - 1] if last > first else 0
        if step > 1 and last - first < 2:  # two exits with a gap between them are no range
            last = first
        if last == first:
            words.append(f"{exits[first]}")
        else:
            words.append(f"{exits[first]}-{exits[last]}")
            words[-1] += f" in steps of {step}" if step > 1 else ""
        n += last - first + 1
    return ", ".join(words) or "none"


def name_exits(exits: Int[np.ndarray, " E"], is_chosen: Bool[np.ndarray, " E"]) -> str:
    """`exit 27`, or `exits 24-29`, or `no exit`."""
    count = int(np.sum(is_chosen))
    if not count:
        return "no exit"
    return f"exit{'s' * (count > 1)} {runs_of_exits(exits, is_chosen)}"


def _end_of_run(exits: Int[np.ndarray, " E"], is_chosen: Bool[np.ndarray, " E"], first: int) -> int:
    """The index of the last exit that follows `first` in equal steps, all of them chosen."""
    last = first
    while last + 1 < len(exits) and is_chosen[last + 1]:
        if exits[last + 1] - exits[last] != exits[first + 1] - exits[first]:
            break
        last += 1
    return int(last)
