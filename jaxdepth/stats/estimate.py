"""A value with its interval."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Estimate:
    """A mean at every exit with its 95% interval, clustered by pair."""

    mean: Float[np.ndarray, " E"]
    low: Float[np.ndarray, " E"]
    high: Float[np.ndarray, " E"]
