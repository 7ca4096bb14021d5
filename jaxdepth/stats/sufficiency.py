"""How many independent clusters an interval or a test needs before it says anything.

A bootstrap of few clusters is too narrow, and of one cluster it has no width at all. A percentile
interval of a mean of normal clusters that claims 95% covers 51% at 2 clusters, 83% at 5, 90% at 10
and 92% at 20 (`tests/stats/test_sufficiency.py` computes them). An exact test of signs cannot reach
p < 0.05 with fewer than 6 clusters. Below MIN_CLUSTERS the bounds are NaN: too few to say.
"""

import math

# Whole pairs of prompts; prompts, where they have no pairs. The least at which a nominal 95%
# percentile interval of a mean covers 90% (rounded).
MIN_CLUSTERS = 10
_TWO_SIDED_5, _POWER_80 = 1.959964, 0.841621  # normal quantiles


def enough(n_clusters: int) -> bool:
    """Whether so many independent clusters allow an interval or a test."""
    return n_clusters >= MIN_CLUSTERS


def prompts_to_show(difference: float, error: float, n: int) -> int | None:
    """How many prompts a test at 5% needs to find a difference with a probability of 80%.

    Args:
        difference: the true difference.
        error: the standard error that the estimate of it has with `n` prompts; more prompts make it
            smaller by the root of their number. None where it is not known, or 0.
        n: see `error`.
    """
    if not error > 0:
        return None
    return math.ceil(n * ((_TWO_SIDED_5 + _POWER_80) * error / difference) ** 2)
