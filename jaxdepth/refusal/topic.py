"""Whether a reply is to the point of its prompt.

Two numbers of a reference model tell: how much more probable the reply is after its prompt than
after an empty message (pointwise mutual information, nats per token), and how probable it is after
its prompt. Where there is a sentence encoder, the cosine of prompt and reply takes the place of the
first. A logistic rule joins the two; tools/fit_topic.py fits it, docs/topicality.md has the errors.
"""

import json
import math
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
    return [_probability(score) if is_scored(score) else float("nan") for score in scores]


def _probability(score: ReplyScores) -> float:
    rule = rules()[rule_of(score)]
    logit = float(features(score) @ rule["coefficients"] + rule["intercept"])
    return 1 / (1 + math.exp(-logit))


def rule_of(score: ReplyScores) -> str:
    """The name of the rule that applies: with a sentence encoder or without."""
    return "information" if math.isnan(score.cosine) else "encoder"


def features(score: ReplyScores) -> Float[np.ndarray, "2"]:
    """Information (nats per token) or cosine, and log-probability per token after the prompt."""
    given = float(np.nanmean(score.given_T, dtype=np.float64))
    if not math.isnan(score.cosine):
        return np.array([score.cosine, given])
    shared = min(len(score.alone_T), len(score.given_T))
    more_T = score.given_T[:shared] - score.alone_T[:shared]
    return np.array([float(np.nanmean(more_T, dtype=np.float64)), given])


def is_scored(score: ReplyScores) -> bool:
    """Whether a reply was scored after its prompt and alone, and is long enough for a mean.

    A reference whose activations are NaN or infinite has scored nothing.
    """
    both = score.alone_T, score.given_T
    return min(map(len, both)) >= _MIN_TOKENS and all(np.isfinite(s).any() for s in both)


@cache
def rules() -> dict[str, dict]:
    """The fitted rules by name: their coefficients and intercept."""
    return json.loads((files("jaxdepth") / "data" / WEIGHTS_FILE).read_text("utf-8"))
