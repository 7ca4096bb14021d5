"""Calibration and selective prediction: log loss, calibration error, risk and coverage."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float


def log_loss(p_N: Float[np.ndarray, " N"], true_N: Bool[np.ndarray, " N"]) -> float:
    """Mean negative log-likelihood in nats; probabilities are clipped to 1e-9 from 0 and 1."""
    p_N = np.clip(p_N, 1e-9, 1 - 1e-9)
    return float(-np.mean(np.where(true_N, np.log(p_N), np.log1p(-p_N))))


def calibration_error(
    p_N: Float[np.ndarray, " N"],
    true_N: Bool[np.ndarray, " N"],
    weights_RN: Float[np.ndarray, "R N"],
    bins: int = 10,
) -> Float[np.ndarray, " R"]:
    """Expected calibration error over bins of equal width, for each of R rows of weights.

    Source: Naeini et al. 2015; the form of Guo et al. 2017 (arXiv:1706.04599).
    """
    bin_N = np.minimum((p_N * bins).astype(int), bins - 1)
    gap_N = p_N - true_N
    total = np.zeros(len(weights_RN))
    for b in range(bins):
        total += np.abs((weights_RN * (bin_N == b)) @ gap_N)
    return total / weights_RN.sum(axis=1)


def risk_coverage(
    margin_N: Sequence[float], correct_N: Bool[np.ndarray, " N"], coverages: Sequence[float]
) -> list[tuple[float, float, int]]:
    """Selective risk at several coverages: rows of (coverage, risk, number of verdicts).

    The verdicts with the largest margins are kept; ties at the border are all kept. Risk is the
    share of wrong ones among them.
    """
    order = np.argsort(-np.asarray(margin_N, np.float64), kind="stable")
    ordered, rows = np.asarray(margin_N)[order], []
    for coverage in coverages:
        count = max(1, round(coverage * len(order)))
        count = int(np.searchsorted(-ordered, -ordered[count - 1], side="right"))
        risk = 1 - float(np.mean(correct_N[order[:count]]))
        rows.append((count / len(order), risk, count))
    return rows
