"""Numbers in words."""

import numpy as np
from jaxtyping import Bool, Int


def runs_of_exits(exits: Int[np.ndarray, " E"], is_chosen: Bool[np.ndarray, " E"]) -> str:
    """The chosen ones of some exits in words: `12-14, 29`; `none` if there are none."""
    padded = np.concatenate([[False], is_chosen, [False]]).astype(int)
    starts, ends = (np.flatnonzero(np.diff(padded) == step) for step in (1, -1))
    runs = zip(exits[starts], exits[ends - 1], strict=True)
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"
