"""Depth and outcomes of exit rules, by label, and against static truncation at the same depth."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped

from jaxdepth.depth.policies import Policy
from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import HARMLESS
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.bands import mean_band
from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, rate_bounds, resampled_bounds, widen
from jaxdepth.study.common_tables import check_once, prompt_rows
from jaxdepth.study.policies.tables import DYNAMIC, MATCHED
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.windows import Answered, Competence, find_competent

MEAN_EXIT, MEAN_LAYERS, AGREEMENT, TEXT = "mean_exit", "mean_layers", "agreement", "same_text"
COMPARED = (AGREEMENT, TEXT, *map(str, Outcome))  # of a rule with static truncation
METRICS = (MEAN_EXIT, MEAN_LAYERS, *COMPARED)


@dataclass(frozen=True)
class RuleMeans:
    """Metrics of every prompt under every rule, means over samples."""

    rules: pd.DataFrame  # R rows of rule (its name), policy and threshold
    ids_N: Shaped[np.ndarray, " N"]
    labels_N: Shaped[np.ndarray, " N"]
    clusters_N: Shaped[np.ndarray, " N"]
    values: dict[str, Float[np.ndarray, "N R"]]  # by metric; outcomes are shares of the samples
    samples: int

    @classmethod
    def read(cls, run_path: str | Path) -> "RuleMeans":
        """Read a finished run of `jaxdepth sweep --policy`.

        Raises:
            InputError: it is not finished, or damaged.
        """
        answers = read_frame(run_path, DYNAMIC).astype({"threshold": float})
        keys = ["prompt_id", "rule", "sample"]
        check_once(answers, keys, f"{run_path}: the table {DYNAMIC.name}")
        is_known = answers["outcome"].isna() | answers["outcome"].isin([*map(str, Outcome)])
        if len(answers) != answers[keys].nunique().prod() or answers.empty or not is_known.all():
            raise InputError(
                f"{run_path}: the table {DYNAMIC.name} lacks answers to some prompts under some "
                "rules, or has other outcomes than there are: it is damaged, run the command again "
                "to another --out"
            )
        answers[TEXT] = answers[AGREEMENT] == 1
        for outcome in map(str, Outcome):
            answers[outcome] = answers["outcome"] == outcome
        by_lane = answers.astype(dict.fromkeys(METRICS, float)).groupby(["prompt_id", "rule"])
        means = by_lane[list(METRICS)].mean()
        rules = answers[["rule", "policy", "threshold"]].drop_duplicates(ignore_index=True)
        values = {metric: means[metric].unstack()[rules["rule"]] for metric in METRICS}
        ids = values[TEXT].index
        prompts = prompt_rows(run_path, ids).reset_index()
        return cls(
            rules,
            ids.to_numpy(object),
            prompts["label"].to_numpy(object),
            prompts["pair_id"].fillna(prompts["prompt_id"]).to_numpy(object),
            {metric: value.to_numpy() for metric, value in values.items()},
            1 + int(answers["sample"].max()),
        )

    @property
    def labels(self) -> list[str]:
        """The labels that the prompts have, harmful before harmless."""
        return sorted(set(self.labels_N))

    def count_clusters(self, label: str) -> int:
        """The number of pairs that the prompts of a label are of."""
        return len(set(self.clusters_N[self.labels_N == label].tolist()))

    def select(self, chosen_N: Bool[np.ndarray, " N"]) -> "RuleMeans":
        """The same of some prompts only."""
        return RuleMeans(
            self.rules,
            self.ids_N[chosen_N],
            self.labels_N[chosen_N],
            self.clusters_N[chosen_N],
            {metric: value_NR[chosen_N] for metric, value_NR in self.values.items()},
            self.samples,
        )


def rule_rates(means: RuleMeans, seed: int = 0) -> pd.DataFrame:
    """Every metric of every rule by label: the policies table."""
    counts_KN = resample_counts(means.clusters_N, seed=seed)
    competent_R = can_answer(means)
    parts = []
    for label in means.labels:
        has_label_N = means.labels_N == label
        n = int(has_label_N.sum())
        for metric, value_NR in means.values.items():
            mean_R = value_NR[has_label_N].mean(axis=0)
            if metric in list(Outcome) and means.samples == 1:
                low_R, high_R = np.transpose([rate_bounds(round(mean * n), n) for mean in mean_R])
            else:
                resampled_KR = resampled_means(counts_KN[:, has_label_N], value_NR[has_label_N])
                value_range = None if metric in (MEAN_EXIT, MEAN_LAYERS) else UNIT
                clusters = means.count_clusters(label)
                low_R, high_R = resampled_bounds(mean_R, resampled_KR, clusters, value_range)
            parts.append(
                means.rules.assign(
                    label=label,
                    competent=competent_R,
                    metric=metric,
                    n=n,
                    value=mean_R,
                    low=low_R,
                    high=high_R,
                )
            )
    return pd.concat(parts, ignore_index=True)


def can_answer(means: RuleMeans) -> Shaped[np.ndarray, " R"]:
    """Whether each rule answers harmless prompts to the point, measured by the deepest rule."""
    harmless_N = means.labels_N == HARMLESS
    if not harmless_N.any():
        return np.full(len(means.rules), Competence.UNKNOWN, object)
    comply_NR = means.values[str(Outcome.COMPLY)][harmless_N]
    deepest = int(means.values[MEAN_LAYERS].mean(axis=0).argmax())
    answered = Answered(comply_NR, means.samples, means.clusters_N[harmless_N])
    return find_competent(answered, Windows(), deepest)[1]


def match_depths(means: RuleMeans, seed: int = 0) -> pd.DataFrame:
    """Every other rule against static truncation at its mean depth: the matched table.

    Static truncation at a depth between two fixed exits is their weighted mean, prompt by prompt:
    the expectation of choosing one of the two at random for every prompt. The weights are those of
    all prompts, in every bootstrap resample too. Rules shallower or deeper than all fixed exits are
    left out.
    """
    rules, static_RR = _static_at_same_depth(means)
    counts_KN = resample_counts(means.clusters_N, seed=seed)
    parts = []
    for label in means.labels if len(rules) else ():
        has_label_N, clusters = means.labels_N == label, means.count_clusters(label)
        for metric in (metric for metric in COMPARED if metric in means.values):
            value_NR = means.values[metric][has_label_N]
            difference_NX = value_NR[:, rules["number"]] - value_NR @ static_RR.T
            resampled_KX = resampled_means(counts_KN[:, has_label_N], difference_NX)
            mean_X = difference_NX.mean(axis=0)
            low_X, high_X = resampled_bounds(mean_X, resampled_KX, clusters, DIFFERENCE)
            band_X = mean_band(mean_X, resampled_KX, clusters)
            band_low_X, band_high_X = widen(mean_X, *band_X, clusters, DIFFERENCE)
            columns = {
                "label": label,
                "metric": metric,
                "n": int(has_label_N.sum()),
                "difference": mean_X,
                "low": low_X,
                "high": high_X,
                "band_low": band_low_X,
                "band_high": band_high_X,
                "rules": len(rules),
            }
            parts.append(rules.assign(**columns))
    columns = MATCHED.schema.names
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def _static_at_same_depth(means: RuleMeans) -> tuple[pd.DataFrame, Float[np.ndarray, "X R"]]:
    """The rules between two fixed exits, and the weights of all rules that make each one's match.

    `number` is a rule's own among all, `below` and `above` are the fixed exits around it.
    """
    fixed = means.rules[means.rules["policy"] == Policy.FIXED].sort_values("threshold")
    depth_R = means.values[MEAN_LAYERS].mean(axis=0)
    rows, weights = [], []
    for r, rule in means.rules[means.rules["policy"] != Policy.FIXED].iterrows():
        between = _fixed_around(fixed["threshold"], depth_R[r])
        if between is None:
            continue
        below, above, weight = between
        weight_R = np.zeros(len(means.rules))
        weight_R[below], weight_R[above] = 1 - weight, weight
        weights.append(weight_R)
        exits = {
            name: int(fixed["threshold"][x]) for name, x in (("below", below), ("above", above))
        }
        rows.append({**rule, "number": r, "mean_layers": depth_R[r], **exits})
    return pd.DataFrame(rows), np.array(weights)


def resampled_means(
    counts_KN: Float[np.ndarray, "K N"], value_NX: Float[np.ndarray, "N X"]
) -> Float[np.ndarray, "K X"]:
    """Means over prompts in bootstrap resamples; NaN where a resample has none of them."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts_KN @ value_NX) / counts_KN.sum(axis=1, keepdims=True)


def _fixed_around(depths: pd.Series, depth: float) -> tuple[int, int, float] | None:
    """The rules of the fixed exits below and above a depth, and the weight of the one above."""
    for (below, low), (above, high) in pairwise(depths.items()):
        if low <= depth <= high:
            return below, above, (depth - low) / (high - low)
    return None
