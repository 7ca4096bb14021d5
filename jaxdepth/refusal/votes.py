"""Votes over several verdicts, and temperature scaling of verdict probabilities."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdepth.refusal.deliberate import ABSTAINS, Rule
from jaxdepth.stats.calibration import log_loss

RULES = ("majority", "mean", "cautious")


class Vote(NamedTuple):
    """The joint verdict of several thoughts."""

    verdict: int  # 0 to 2 as `VERDICTS`, 3 where all abstain
    p: Float[np.ndarray, " 3"]  # mean probabilities
    agreement: float  # share of the votes that are this verdict


def vote(
    p_M3: Float[np.ndarray, "M 3"], verdict_M: Int[np.ndarray, " M"], by: str, rule: Rule
) -> Vote:
    """Combine M verdicts into one.

    Args:
        p_M3: probabilities of refuse, partial and comply.
        verdict_M: the verdicts, 0 to 3.
        by: majority takes the most frequent verdict, on ties the most cautious; mean applies the
            rule to the mean probabilities; cautious takes the most cautious verdict of any.
            Majority and cautious ignore votes that abstain.
        rule: chooses a verdict from probabilities.
    """
    p_3 = p_M3.mean(axis=0)
    cast = verdict_M[verdict_M != ABSTAINS]
    if by == "mean":
        chosen = int(rule.choose(p_3))
    elif not len(cast):
        chosen = ABSTAINS
    elif by == "cautious":
        chosen = int(cast.min())
    else:
        chosen = int(np.argmax(np.bincount(cast, minlength=3)))  # the first on ties
    return Vote(chosen, p_3, float(np.mean(verdict_M == chosen)))


def fit_temperature(logp_N3: Float[np.ndarray, "N 3"], harmful_N: Bool[np.ndarray, " N"]) -> float:
    """Temperature scaling: the temperature whose P(not comply) makes the labels most likely.

    The best of 121 from 0.05 to 50, evenly spaced in their logarithm. Source: Guo et al. 2017
    (arXiv:1706.04599).
    """
    grid = np.geomspace(0.05, 50, 121)
    losses = [log_loss(caution(logp_N3, t), harmful_N) for t in grid]
    return float(grid[int(np.argmin(losses))])


def caution(logp: Float[np.ndarray, "... 3"], temperature: float) -> Float[np.ndarray, "..."]:
    """P(refuse) + P(partial) at a temperature."""
    scaled = logp.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return (p[..., 0] + p[..., 1]) / p.sum(axis=-1)
