"""How many independent clusters an interval or a test needs before it says anything.

A bootstrap of few clusters is too narrow, and of one cluster it has no width at all. A percentile
interval of a mean of normal clusters that claims 95% covers 51% at 2 clusters, 83% at 5, 90% at 10
and 92% at 20 (`tests/stats/test_sufficiency.py` computes them). An exact test of signs cannot reach
p < 0.05 with fewer than 6 clusters. Below MIN_CLUSTERS the bounds are NaN: too few to say.
"""

# Whole pairs of prompts; prompts, where they have no pairs. The least at which a nominal 95%
# percentile interval of a mean covers 90% (rounded).
MIN_CLUSTERS = 10


def enough(n_clusters: int) -> bool:
    """Whether so many independent clusters allow an interval or a test."""
    return n_clusters >= MIN_CLUSTERS
