"""Probes at one position of the residual stream, and the controls beside every number.

Own prompts are scored out of fold: by probes that were neither trained nor chosen on them. Prompts
of other sets are scored by the mean of the folds' probes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from jaxdepth.errors import InputError
from jaxdepth.probing.fit import LinearProbes, fit_difference
from jaxdepth.probing.folds import CrossFitted, choose_slice, cross_fit, make_folds
from jaxdepth.prompts.prompt import Prompt, check_labelled
from jaxdepth.stats.calibration import measure_calibration
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.ranking import auroc, tpr_at_fpr
from jaxdepth.stats.resampled import UNIT, cluster_labels, clusters_of, resampled_bounds
from jaxdepth.study.probes.tables import PROBE_SCORES, PROBES

LOGISTIC, DIFFERENCE, SHUFFLED, RANDOM = "logistic", "difference", "shuffled labels", "random"
CHOSEN, WORDS = "logistic, layer chosen", "bag of words"
CONTENT, BEHAVIOUR, BEHAVIOUR_HARMFUL = "content", "behaviour", "behaviour among harmful"
OWN = "own"
_DIRECTIONS = 10  # random ones, each with its opposite; the best on validation prompts is taken


class Target(NamedTuple):
    """Two classes for a probe to tell apart, and the rows of a set's prompts that have one."""

    name: str
    rows_M: Int[np.ndarray, " M"]
    positive_M: Bool[np.ndarray, " M"]

    def fits(self, folds: int, groups: Sequence) -> bool:
        """Whether both classes have at least one group for every fold."""
        return all(
            len({groups[n] for n in self.rows_M[self.positive_M == side]}) >= folds
            for side in (True, False)
        )


class Examples(NamedTuple):
    """A set of prompts with their labels, groups and bootstrap resamples."""

    name: str
    ids: list[str]
    groups: list  # folds keep them whole: pairs, or sources
    harmful_N: Bool[np.ndarray, " N"]
    counts_RN: Float[np.ndarray, "R N"]  # how often each prompt is in each resample of pairs

    @classmethod
    def of(
        cls, name: str, prompts: Sequence[Prompt], resamples: int, seed: int, group_by: str = "pair"
    ) -> "Examples":
        """The examples of some prompts; raises InputError where one of the labels is missing."""
        check_labelled(prompts, "probes tell harmful from harmless")
        harmful_N = np.array([p.label == "harmful" for p in prompts])
        if harmful_N.all() or not harmful_N.any():
            kind = "harmful" if harmful_N.all() else "harmless"
            raise InputError(
                f"{name} has {kind} prompts only, and probes tell harmful from harmless: join two "
                "sources with + in --transfer, or name both in --prompts"
            )
        clusters = [p.cluster_id for p in prompts]
        counts_RN = resample_counts(clusters, resamples, seed)
        groups = [p.source for p in prompts] if group_by == "source" else clusters
        return cls(name, [p.prompt_id for p in prompts], groups, harmful_N, counts_RN)

    def rows(self, prompt_ids: Sequence[str]) -> Int[np.ndarray, " M"]:
        """The rows of these prompts."""
        return pd.Index(self.ids).get_indexer(prompt_ids)


class CrossValidation(NamedTuple):
    """Folds, the grid of inverse regularisation strengths, and the seed of folds and controls."""

    folds: int
    strengths: tuple[float, ...]
    seed: int


# Sets to transfer to, each with its residual streams (J N D) or word counts (N V).
Transfer = Sequence[tuple[Examples, Float[np.ndarray, "..."]]]


def evaluate(
    validation: CrossValidation,
    position: str,
    own: Examples,
    x_JND: Float[np.ndarray, "J N D"],
    transfer: Transfer,
    target: Target,
) -> tuple[pa.Table, pa.Table]:
    """The rows of `probes` and of `probe_scores` for one target at one position."""
    x_JMD, positive_M = x_JND[:, target.rows_M], target.positive_M
    fold_M, counts_RM = folds_of(validation, own, target)
    shuffled_M = shuffle_labels(positive_M, fold_M, validation.seed)
    grid, seed = validation.strengths, validation.seed
    one_each = (1.0,) * 2 * _DIRECTIONS
    fitted = {
        SHUFFLED: cross_fit(x_JMD, shuffled_M, fold_M, grid),
        LOGISTIC: cross_fit(x_JMD, positive_M, fold_M, grid),
        DIFFERENCE: cross_fit(x_JMD, positive_M, fold_M, (1.0,), fit=fit_difference),
        RANDOM: cross_fit(x_JMD, positive_M, fold_M, one_each, fit=random_directions(seed)),
    }
    metrics = {}
    for probe, fit in fitted.items():
        label_M = shuffled_M if probe == SHUFFLED else positive_M
        metrics[probe] = metric_rows(fit.score_GN, label_M, fold_M, counts_RM, probe == LOGISTIC)
    for row, control in zip(metrics[LOGISTIC], metrics[SHUFFLED], strict=True):
        row["selectivity"] = row["auroc"] - control["auroc"]
    keys = {"target": target.name, "position": position, "set": own.name}
    rows = [
        keys | {"probe": probe, "layer": layer} | row
        for probe, by_layer in metrics.items()
        for layer, row in enumerate(by_layer)
    ]
    logistic = fitted[LOGISTIC]
    score_M, chosen_F = choose_slice(logistic.validation_GF, logistic.score_GN, fold_M)
    (row,) = metric_rows(score_M[None], positive_M, fold_M, counts_RM, True)
    rows.append(keys | {"probe": CHOSEN, "chosen_layers": chosen_F.tolist()} | row)
    ids = [own.ids[n] for n in target.rows_M]
    scores = [score_table(keys, ids, fold_M, positive_M, logistic.score_GN)]
    for other, other_JND in transfer if target.name == CONTENT else ():
        keys = keys | {"set": other.name}
        score_JN = mean_scores(logistic, other_JND)
        by_layer = metric_rows(score_JN, other.harmful_N, None, other.counts_RN, True)
        rows += [keys | {"probe": LOGISTIC, "layer": j} | row for j, row in enumerate(by_layer)]
        scores.append(score_table(keys, other.ids, None, other.harmful_N, score_JN))
    return PROBES.from_rows(rows), pa.concat_tables(scores)


def evaluate_words(
    validation: CrossValidation,
    own: Examples,
    words_NV: Float[np.ndarray, "N V"],
    transfer: Transfer,
    target: Target,
) -> pa.Table:
    """The rows of `probes` for one target, read from which tokens a prompt has."""
    fold_M, counts_RM = folds_of(validation, own, target)
    positive_M = target.positive_M
    words_1MV = words_NV[None, target.rows_M]
    fitted = cross_fit(words_1MV, positive_M, fold_M, validation.strengths)
    keys = {"target": target.name, "probe": WORDS}
    (row,) = metric_rows(fitted.score_GN, positive_M, fold_M, counts_RM, True)
    rows = [keys | {"set": own.name} | row]
    for other, other_NV in transfer if target.name == CONTENT else ():
        score_1N = mean_scores(fitted, other_NV[None])
        (row,) = metric_rows(score_1N, other.harmful_N, None, other.counts_RN, True)
        rows.append(keys | {"set": other.name} | row)
    return PROBES.from_rows(rows)


def shuffle_labels(
    label_N: Bool[np.ndarray, " N"], fold_N: Int[np.ndarray, " N"], seed: int
) -> Bool[np.ndarray, " N"]:
    """Control labels: shuffled within each fold, so that every fold keeps its class sizes."""
    rng, shuffled_N = np.random.default_rng(seed), label_N.copy()
    for fold in np.unique(fold_N):
        shuffled_N[fold_N == fold] = rng.permutation(label_N[fold_N == fold])
    return shuffled_N


def mean_scores(fitted: CrossFitted, x_JND: Float[np.ndarray, "J N D"]) -> Float[np.ndarray, "J N"]:
    """Decision values of other prompts, by the mean of the folds' probes."""
    weights_JD, bias_J = fitted.weights_GFD.mean(axis=1), fitted.bias_GF.mean(axis=1)
    return np.einsum("jnd,jd->jn", x_JND, weights_JD) + bias_J[:, None]


def random_directions(seed: int) -> Callable[..., LinearProbes]:
    """A fit for `cross_fit` that ignores the data: random directions and their opposites."""

    def fit(x_GND, y_N, train_FN, strengths_C) -> LinearProbes:
        G, _, D = x_GND.shape
        rng = np.random.default_rng(seed)
        random_CD = rng.standard_normal((len(strengths_C) // 2, D))
        both_CD = np.concatenate([random_CD, -random_CD]).astype(np.float32)
        shape = G, len(train_FN), len(strengths_C)
        return LinearProbes(np.broadcast_to(both_CD, (*shape, D)), np.zeros(shape, np.float32))

    return fit


def metric_rows(
    score_XN: Float[np.ndarray, "X N"],
    positive_N: Bool[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"] | None,
    counts_RN: Float[np.ndarray, "R N"],
    logistic: bool,
) -> list[dict]:
    """How well scores tell two classes apart: columns of `probes`, one row for each of X.

    Args:
        score_XN: decision values.
        positive_N: the true classes.
        fold_N: AUROC compares prompts of one fold only; None compares all with all.
        counts_RN: bootstrap resamples of the prompts.
        logistic: whether the scores are log-odds, so that their calibration can be measured.
    """
    auroc_X, low_X, high_X = auroc_bounds(score_XN, positive_N, fold_N, counts_RN)
    clusters_N = cluster_labels(counts_RN)
    rows = []
    for x, score_N in enumerate(score_XN):
        p_N = (1 + np.tanh(score_N.astype(np.float64) / 2)) / 2  # the sigmoid, without overflow
        calibration = {}
        if logistic:
            error, p_value, *_ = measure_calibration(p_N, positive_N, clusters_N)
            calibration = {"calibration_error": error.value, "p_calibrated": p_value}
            calibration |= {"calibration_low": error.low, "calibration_high": error.high}
        rows.append(
            calibration
            | {
                "n": len(positive_N),
                "n_positive": int(positive_N.sum()),
                "auroc": float(auroc_X[x]),
                "low": float(low_X[x]),
                "high": float(high_X[x]),
                "tpr_at_1_fpr": float(tpr_at_fpr(score_N, positive_N)),
            }
        )
    return rows


def auroc_bounds(
    score_XN: Float[np.ndarray, "X N"],
    positive_N: Bool[np.ndarray, " N"],
    fold_N: Int[np.ndarray, " N"] | None,
    counts_RN: Float[np.ndarray, "R N"],
) -> tuple[Float[np.ndarray, " X"], Float[np.ndarray, " X"], Float[np.ndarray, " X"]]:
    """The AUROC of X scores with its bounds; NaN where too few clusters were resampled."""
    auroc_X = np.asarray(auroc(score_XN, positive_N, fold_N))
    resampled_RX = np.asarray(auroc(score_XN, positive_N, fold_N, counts_RN))
    bounds = resampled_bounds(auroc_X, resampled_RX, clusters_of(counts_RN), UNIT, order=2)
    return auroc_X, *bounds


def score_table(
    keys: Mapping[str, str],
    ids: Sequence[str],
    fold_N: Int[np.ndarray, " N"] | None,
    positive_N: Bool[np.ndarray, " N"],
    score_JN: Float[np.ndarray, "J N"],
) -> pa.Table:
    """Rows of `probe_scores`, layer by layer, with the prompts in the same order in each.

    Args:
        keys: target, position and set of all rows.
        ids: the prompts' ids.
        fold_N: the fold in which each prompt was tested; None for transfer.
        positive_N: the true classes.
        score_JN: decision values by layer.
    """
    J, N = score_JN.shape
    columns = {
        "layer": np.repeat(np.arange(J), N),
        "prompt_id": list(ids) * J,
        "fold": [None] * (J * N) if fold_N is None else np.tile(fold_N, J),
        "positive": np.tile(positive_N, J),
        "score": score_JN.ravel().astype(np.float32),
    }
    return PROBE_SCORES.from_columns({k: [v] * (J * N) for k, v in keys.items()} | columns)


def folds_of(
    validation: CrossValidation, own: Examples, target: Target
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, "R M"]]:
    """The fold of each of a target's prompts, and their counts in each bootstrap resample."""
    groups = [own.groups[n] for n in target.rows_M]
    fold_M = make_folds(groups, target.positive_M, validation.folds, validation.seed)
    return fold_M, own.counts_RN[:, target.rows_M]


def auroc_estimate(rows: pd.Series | pd.DataFrame) -> Estimate:
    """The AUROC with its interval of one row, or of several, of `probes` or `curves`."""
    return Estimate(*(np.asarray(rows[name]) for name in ("auroc", "low", "high")))
