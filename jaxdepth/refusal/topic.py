"""Whether a reply is to the point of its prompt, from a reference model's log-probabilities.

Two numbers tell: how much more probable the reply is after its prompt than after an empty message
(pointwise mutual information, nats per token), and how probable it is after its prompt. A logistic
rule joins them; tools/fit_topic.py fits it, docs/topicality.md has the errors.
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from jaxdepth.refusal.reference import ReplyScores

WEIGHTS_FILE = "topic.json"
TO_THE_POINT = 0.5  # from this probability on
_MIN_TOKENS = 2


def topicality(scores: Sequence[ReplyScores]) -> list[float]:
    """The probability that each reply is to the point, 0 to 1; NaN where it was not scored."""
    weights = _weights()
    coefficients = np.array([weights["information"], weights["given"]])
    logits = [
        float(features(score) @ coefficients + weights["intercept"])
        if is_scored(score)
        else float("nan")
        for score in scores
    ]
    return [float(1 / (1 + np.exp(-logit))) for logit in logits]


def features(score: ReplyScores) -> Float[np.ndarray, "2"]:
    """Mutual information with the prompt, and log-probability after it; nats per token."""
    shared = min(len(score.alone_T), len(score.given_T))
    given = float(np.mean(score.given_T, dtype=np.float64))
    alone = float(np.mean(score.alone_T[-shared:], dtype=np.float64))
    return np.array([float(np.mean(score.given_T[-shared:], dtype=np.float64)) - alone, given])


def is_scored(score: ReplyScores) -> bool:
    """Whether a reply was scored after its prompt and alone, and is long enough for a mean."""
    return min(len(score.alone_T), len(score.given_T)) >= _MIN_TOKENS


@cache
def _weights() -> dict[str, float]:
    return json.loads((files("jaxdepth") / "data" / WEIGHTS_FILE).read_text("utf-8"))
