"""Numbers in words."""

import numpy as np
from jaxtyping import Int

from jaxdepth.stats.estimate import Estimate


def runs_of_exits(exits: Int[np.ndarray, " E"], chosen: np.ndarray) -> str:
    """Chosen exits in words: `12-14, 29`; `none` if there are none."""
    runs: list[list[int]] = []
    previous = None
    for place, exit in enumerate(exits.tolist()):
        if not chosen[place]:
            continue
        if runs and previous == place - 1:
            runs[-1][1] = exit
        else:
            runs.append([exit, exit])
        previous = place
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
    return text or "none"


def _with_interval(e: Estimate, place: int) -> str:
    return f"{e.value[place]:+.2f} [{e.low[place]:+.2f}, {e.high[place]:+.2f}]"
