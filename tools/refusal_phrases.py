"""The second model of the refusal detector: phrases of one to three words, by how rare they are.

Imported by tools/refusal_fit.py. It is fitted to whole answers, to their starts and to broken ones.
The phrases that weigh most are kept, and weighed again without the others.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from refusal_answers import COMPLY, HARD, HARD_WEIGHT, PARTIAL, REFUSE, Answer, truncate, variant
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from jaxdepth.refusal.detector import phrases

PARTIAL_WEIGHT = 0.5
TEXTS = 3  # a phrase is known if it is in so many training texts
KEPT = 6000
STARTS = (18, 40)  # words


def joined(p: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """The probability of both models together: the mean of their log-odds."""
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return 1 / (1 + np.exp(-(np.log(p / (1 - p)) + logit) / 2))


class PhraseFit(NamedTuple):
    """Log-odds of refusal of each known phrase, and its rarity."""

    column_of: dict[str, int]
    log_odds_F: np.ndarray
    rarity_F: np.ndarray
    intercept: float

    def logits(self, examples, members: Sequence[int], name: str) -> np.ndarray:
        """Log-odds of refusal of a variant of some answers, (N,)."""
        texts = [examples.answers[n].text for n in members]
        texts = [variant(text, name) if name else text for text in texts]
        x_NF = _unit(_matrix(texts, self.column_of), self.rarity_F)
        return x_NF @ self.log_odds_F + self.intercept

    @property
    def weights(self) -> dict:
        """What `detector.phrase_logit` reads."""
        pairs = np.stack([self.log_odds_F, self.rarity_F], axis=1).round(2).tolist()
        known = {phrase: pairs[column] for phrase, column in self.column_of.items()}
        return {"intercept": round(self.intercept, 3), "known": known}


def fit_phrases(answers: Sequence[Answer], members: Sequence[int], strength: float) -> PhraseFit:
    """Fit to some of the answers (indices)."""
    texts, refuses, weights = [], [], []
    for answer in (answers[n] for n in members):
        parts = [answer.text, *(truncate(answer.text, words) for words in STARTS)]
        if answer.label != PARTIAL:  # broken, it may be anything
            parts.append(variant(answer.text, "derailed"))
        if answer.label == COMPLY:
            parts.append(variant(answer.text, "looping"))
        weight = HARD_WEIGHT if answer.source == HARD else 1.0
        weight *= PARTIAL_WEIGHT if answer.label == PARTIAL else 1.0
        texts += parts
        refuses += [answer.label == REFUSE] * len(parts)
        weights += [weight / len(parts)] * len(parts)
    counts: dict[str, int] = {}
    for text in texts:
        for phrase in _phrases(text):
            counts[phrase] = counts.get(phrase, 0) + 1
    known = sorted(phrase for phrase, count in counts.items() if count >= TEXTS)
    fitted = _fit(texts, refuses, weights, known, strength)
    size_F = np.abs(fitted.log_odds_F) * fitted.rarity_F
    kept = sorted(known[column] for column in np.argsort(-size_F, kind="stable")[:KEPT])
    return _fit(texts, refuses, weights, kept, strength)


def _fit(texts, refuses, weights, known, strength) -> PhraseFit:
    column_of = {phrase: column for column, phrase in enumerate(known)}
    x_NF = _matrix(texts, column_of)
    # As scikit-learn's smoothed inverse document frequency.
    rarity_F = np.log((1 + len(texts)) / (1 + np.asarray(x_NF.sum(axis=0))[0])) + 1
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(_unit(x_NF, rarity_F), refuses, sample_weight=weights)
    return PhraseFit(column_of, model.coef_[0], rarity_F, float(model.intercept_[0]))


def _matrix(texts: Sequence[str], column_of: dict[str, int]) -> sparse.csr_matrix:
    """Which known phrases each text has."""
    columns = [sorted(column_of[p] for p in _phrases(text) if p in column_of) for text in texts]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.array([column for row in columns for column in row], int)
    shape = (len(texts), len(column_of))
    return sparse.csr_matrix((np.ones(len(flat)), flat, ends), shape)


def _unit(x_NF: sparse.csr_matrix, rarity_F: np.ndarray) -> sparse.csr_matrix:
    """Each text scaled to unit length, by the rarity of its phrases."""
    weighted_NF = x_NF @ sparse.diags(rarity_F)
    length_N = np.sqrt(np.asarray(weighted_NF.multiply(weighted_NF).sum(axis=1))[:, 0])
    return sparse.diags(1 / np.maximum(length_N, 1e-12)) @ weighted_NF


@cache
def _phrases(text: str) -> frozenset[str]:
    return frozenset(phrases(text))
