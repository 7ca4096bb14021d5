"""What probes read at one position, with the controls beside every number.

Own prompts are scored out of fold: by probes that neither saw them nor were chosen on them. Sets to
transfer to are scored by the mean of the folds' probes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.probing.fit import LinearProbes, fit_difference
from jaxdepth.probing.folds import CrossFitted, choose_slice, cross_fit, make_folds
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.stats.calibration import calibration_error
from jaxdepth.stats.intervals import interval, resample_counts
from jaxdepth.stats.ranking import auroc, tpr_at_fpr

PROBES, SCORES = "probes", "probe_scores"
LOGISTIC, DIFFERENCE, SHUFFLED, RANDOM = "logistic", "difference", "shuffled labels", "random"
CHOSEN, WORDS = "logistic, layer chosen", "bag of words"
CONTENT, BEHAVIOUR, BEHAVIOUR_HARMFUL = "content", "behaviour", "behaviour among harmful"
OWN = "own"
_DIRECTIONS = 10  # random ones, of which the best on validation prompts is taken

PROBES_SCHEMA = pa.schema(
    [
        ("target", pa.string()),
        ("position", pa.string()),  # null for the bag of words
        ("layer", pa.int32()),  # 0 is the embedding; null where layers were chosen
        ("probe", pa.string()),
        ("set", pa.string()),  # own, or the prompts that are transferred to
        ("n", pa.int32()),
        ("n_positive", pa.int32()),
        ("auroc", pa.float64()),
        ("low", pa.float64()),  # 95%, bootstrap of whole pairs
        ("high", pa.float64()),
        ("tpr_at_1_fpr", pa.float64()),
        ("ece", pa.float64()),  # of logistic probes
        ("selectivity", pa.float64()),  # AUROC above that on shuffled labels
        ("chosen_layers", pa.list_(pa.int32())),  # of each fold
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        ("target", pa.string()),
        ("position", pa.string()),
        ("layer", pa.int32()),
        ("set", pa.string()),
        ("prompt_id", pa.string()),
        ("fold", pa.int32()),  # null where transferred to
        ("positive", pa.bool_()),
        ("score", pa.float32()),  # decision value of the logistic probe; above 0 is positive
    ]
)


class Target(NamedTuple):
    """What a probe is to tell apart, on which of a set's prompts."""

    name: str
    rows_M: Int[np.ndarray, " M"]
    positive_M: Bool[np.ndarray, " M"]

    def fits(self, folds: int, groups: Sequence) -> bool:
        """Whether both classes have prompts for every fold."""
        return all(
            len({groups[n] for n in self.rows_M[self.positive_M == side]}) >= folds
            for side in (True, False)
        )


class Examples(NamedTuple):
    """A set of prompts with what the statistics need to know of it."""

    name: str
    ids: list[str]
    groups: list  # what folds keep whole: pairs, or sources
    harmful_N: Bool[np.ndarray, " N"]
    counts_RN: Float[np.ndarray, "R N"]  # bootstrap draws of whole pairs

    @classmethod
    def of(
        cls, name: str, prompts: Sequence[Prompt], draws: int, seed: int, group_by: str = "pair"
    ) -> "Examples":
        """Raises InputError where one of the labels is missing."""
        harmful_N = np.array([p.label == "harmful" for p in prompts])
        if harmful_N.all() or not harmful_N.any():
            kind = "harmful" if harmful_N.all() else "harmless"
            raise InputError(
                f"{name} has {kind} prompts only, and probes tell harmful from harmless: join two "
                "sources with + in --transfer, or name both in --prompts"
            )
        clusters = [p.cluster_id for p in prompts]
        counts_RN = resample_counts(clusters, draws, seed)
        groups = [p.source for p in prompts] if group_by == "source" else clusters
        return cls(name, [p.prompt_id for p in prompts], groups, harmful_N, counts_RN)


class Evaluation(NamedTuple):
    """How probes are fitted."""

    folds: int
    strengths: tuple[float, ...]
    seed: int


Streams = Sequence[tuple[Examples, Float[np.ndarray, "J M D"]]]


def evaluate(
    how: Evaluation, position: str, own: Examples, x_JND, transfer: Streams, target: Target
) -> tuple[list[dict], list[dict]]:
    """The rows of `probes` and of `probe_scores` for a target at one position."""
    x_JMD, y_M = x_JND[:, target.rows_M], target.positive_M
    fold_M, counts_RM = folds_of(how, own, target)
    shuffled_M = shuffled(y_M, fold_M, how.seed)
    sides = 2 * _DIRECTIONS
    fitted = {
        LOGISTIC: cross_fit(x_JMD, y_M, fold_M, how.strengths),
        SHUFFLED: cross_fit(x_JMD, shuffled_M, fold_M, how.strengths),
        DIFFERENCE: cross_fit(x_JMD, y_M, fold_M, (1.0,), fit=fit_difference),
        RANDOM: cross_fit(x_JMD, y_M, fold_M, (1.0,) * sides, fit=random_directions(how.seed)),
    }
    layers = range(len(x_JND))
    at = {"target": target.name, "position": position, "set": own.name}
    probes, scores = [], []
    control_J = None
    for probe in (SHUFFLED, LOGISTIC, DIFFERENCE, RANDOM):
        truth_M = shuffled_M if probe == SHUFFLED else y_M
        found = measured(fitted[probe].score_GN, truth_M, fold_M, counts_RM, probe == LOGISTIC)
        control_J = control_J or [row["auroc"] for row in found]
        for layer, row in zip(layers, found, strict=True):
            above = row["auroc"] - control_J[layer] if probe == LOGISTIC else None
            probes.append(at | {"probe": probe, "layer": layer, "selectivity": above} | row)
    logistic = fitted[LOGISTIC]
    score_M, chosen_F = choose_slice(logistic.validation_GF, logistic.score_GN, fold_M)
    best = measured(score_M[None], y_M, fold_M, counts_RM, True)[0]
    probes.append(at | {"probe": CHOSEN, "chosen_layers": chosen_F.tolist()} | best)
    ids = [own.ids[n] for n in target.rows_M]
    scores += scored(at, ids, fold_M, y_M, logistic.score_GN)
    for other, their_JND in transfer if target.name == CONTENT else ():
        there = at | {"set": other.name}
        score_JN = transferred(logistic, their_JND)
        found = measured(score_JN, other.harmful_N, None, other.counts_RN, True)
        probes += [
            there | {"probe": LOGISTIC, "layer": layer} | row for layer, row in enumerate(found)
        ]
        scores += scored(there, other.ids, None, other.harmful_N, score_JN)
    return probes, scores


def evaluate_words(
    how: Evaluation, own: Examples, words_NV, transfer: Streams, target: Target
) -> list[dict]:
    """The rows of `probes` for a target read from which tokens a prompt has."""
    fold_M, counts_RM = folds_of(how, own, target)
    y_M = target.positive_M
    fitted = cross_fit(words_NV[None, target.rows_M], y_M, fold_M, how.strengths)
    at = {"target": target.name, "probe": WORDS}
    found = measured(fitted.score_GN, y_M, fold_M, counts_RM, True)
    rows = [at | {"set": own.name} | row for row in found]
    for other, their_NV in transfer if target.name == CONTENT else ():
        score_1N = transferred(fitted, their_NV[None])
        found = measured(score_1N, other.harmful_N, None, other.counts_RN, True)
        rows += [at | {"set": other.name} | row for row in found]
    return rows


def shuffled(y_N: np.ndarray, fold_N: np.ndarray, seed: int) -> np.ndarray:
    """Labels that mean nothing: shuffled within each fold, so that all have as many of each."""
    rng, labels_N = np.random.default_rng(seed), y_N.copy()
    for fold in np.unique(fold_N):
        labels_N[fold_N == fold] = rng.permutation(y_N[fold_N == fold])
    return labels_N


def transferred(fitted: CrossFitted, x_JND: Float[np.ndarray, "J N D"]) -> np.ndarray:
    """Decision values (J, N) of other prompts: the mean of the folds' probes."""
    weights_JD, bias_J = fitted.weights_GFD.mean(axis=1), fitted.bias_GF.mean(axis=1)
    return np.einsum("jnd,jd->jn", x_JND, weights_JD) + bias_J[:, None]


def random_directions(seed: int):
    """Fits nothing: directions drawn at random, both ways round, of which one will be chosen."""

    def fit(x_GND, y_N, train_FN, strengths_C) -> LinearProbes:
        G, _, D = x_GND.shape
        rng = np.random.default_rng(seed)
        drawn_CD = rng.standard_normal((len(strengths_C) // 2, D))
        both_CD = np.concatenate([drawn_CD, -drawn_CD]).astype(np.float32)
        shape = G, len(train_FN), len(strengths_C)
        return LinearProbes(np.broadcast_to(both_CD, (*shape, D)), np.zeros(shape, np.float32))

    return fit


def measured(
    score_XN: Float[np.ndarray, "X N"],
    y_N: Bool[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"] | None,
    counts_RN: Float[np.ndarray, "R N"],
    logistic: bool,
) -> list[dict]:
    """How well scores tell two classes apart, a row for each of X."""
    auroc_X = auroc(score_XN, y_N, fold_N)
    low_X, high_X = interval(auroc(score_XN, y_N, fold_N, counts_RN))
    everyone = np.ones((1, len(y_N)))
    rows = []
    for x, score_N in enumerate(score_XN):
        p_N = (1 + np.tanh(score_N.astype(np.float64) / 2)) / 2  # the sigmoid, without overflow
        rows.append(
            {
                "n": len(y_N),
                "n_positive": int(y_N.sum()),
                "auroc": float(auroc_X[x]),
                "low": float(low_X[x]),
                "high": float(high_X[x]),
                "tpr_at_1_fpr": float(tpr_at_fpr(score_N, y_N)),
                "ece": float(calibration_error(p_N, y_N, everyone)[0]) if logistic else None,
            }
        )
    return rows


def scored(at: dict, ids: list[str], fold_N, y_N, score_JN) -> list[dict]:
    """The rows of `probe_scores` of some prompts."""
    return [
        at
        | {
            "layer": layer,
            "prompt_id": prompt_id,
            "fold": None if fold_N is None else int(fold_N[n]),
            "positive": bool(y_N[n]),
            "score": float(score_JN[layer, n]),
        }
        for layer in range(len(score_JN))
        for n, prompt_id in enumerate(ids)
    ]


def folds_of(how: Evaluation, own: Examples, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """The fold of each of a target's prompts (M,), and its bootstrap draws of them (R, M)."""
    groups = [own.groups[n] for n in target.rows_M]
    fold_M = make_folds(groups, target.positive_M, how.folds, how.seed)
    return fold_M, own.counts_RN[:, target.rows_M]
