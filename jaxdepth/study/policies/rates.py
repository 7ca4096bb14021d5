"""What exit policies cost and do, by label, and against static truncation at the same depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from jaxdepth.depth.policies import Policy
from jaxdepth.prompts.datasets import cluster_of
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.intervals import interval, resample_counts, wilson
from jaxdepth.study.policies.run import DYNAMIC
from jaxdepth.study.run_directory import Run, read_table

POLICIES, MATCHED = "policies", "matched"
MEAN_EXIT, MEAN_LAYERS, AGREEMENT, TEXT = "mean_exit", "mean_layers", "agreement", "same_text"
POLICIES_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("policy", pa.string()),
        ("threshold", pa.float32()),
        ("label", pa.string()),
        ("metric", pa.string()),  # mean_exit, mean_layers, agreement, same_text or an outcome
        ("n", pa.int32()),  # prompts
        ("value", pa.float64()),
        ("low", pa.float64()),  # 95%: Wilson for outcomes, else a bootstrap of whole pairs
        ("high", pa.float64()),
    ]
)
MATCHED_SCHEMA = pa.schema(
    [
        ("rule", pa.string()),
        ("policy", pa.string()),
        ("threshold", pa.float32()),
        ("label", pa.string()),
        ("metric", pa.string()),
        ("n", pa.int32()),
        ("mean_layers", pa.float64()),  # of the rule, over all prompts
        ("below", pa.int32()),  # the static exits that static truncation is interpolated between
        ("above", pa.int32()),
        ("difference", pa.float64()),  # rule - static
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class RuleRun:
    """A run of policies as arrays: means over samples, of every prompt and rule."""

    rules: list[tuple[str, str, float]]  # name, policy, threshold
    ids: list[str]
    labels_N: np.ndarray
    clusters: list[str]
    sources_N: np.ndarray
    values: dict[str, Float[np.ndarray, "N R"]]  # by metric; outcomes as shares of the samples
    samples: int

    @classmethod
    def read(cls, run_path: str | Path) -> "RuleRun":
        """A finished run of `jaxdepth sweep --policy`.

        Raises:
            InputError: it is not finished, or damaged.
        """
        rows = read_table(run_path, DYNAMIC).to_pylist()
        told = {p["prompt_id"]: p for p in read_table(run_path, "prompts").to_pylist()}
        rules = list(dict.fromkeys((r["rule"], r["policy"], r["threshold"]) for r in rows))
        ids = sorted({r["prompt_id"] for r in rows})
        samples = 1 + max(r["sample"] for r in rows)
        place_r, place_n = ({x: i for i, x in enumerate(xs)} for xs in ([r[0] for r in rules], ids))
        names = (MEAN_EXIT, MEAN_LAYERS, AGREEMENT, TEXT, *Outcome)
        values = {name: np.zeros((len(ids), len(rules))) for name in names}
        for row in rows:
            at = place_n[row["prompt_id"]], place_r[row["rule"]]
            for name in (MEAN_EXIT, MEAN_LAYERS, AGREEMENT):
                values[name][at] += row[name] / samples
            values[TEXT][at] += (row["agreement"] == 1) / samples
            values[row["outcome"]][at] += 1 / samples
        prompts = [told[i] for i in ids]
        return cls(
            rules,
            ids,
            np.array([p["label"] for p in prompts]),
            [cluster_of(p) for p in prompts],
            np.array([p["source"] for p in prompts]),
            values,
            samples,
        )

    @property
    def labels(self) -> list[str]:
        """Harmful before harmless."""
        return sorted(set(self.labels_N.tolist()))

    def some(self, mine_N: Bool[np.ndarray, " N"]) -> "RuleRun":
        """The same of some prompts only."""
        return RuleRun(
            self.rules,
            [i for i, mine in zip(self.ids, mine_N, strict=True) if mine],
            self.labels_N[mine_N],
            [c for c, mine in zip(self.clusters, mine_N, strict=True) if mine],
            self.sources_N[mine_N],
            {name: value_NR[mine_N] for name, value_NR in self.values.items()},
            self.samples,
        )


def rate_rows(run: RuleRun, seed: int = 0) -> list[dict]:
    """Every metric of every rule, by label."""
    rows = []
    counts_RN = resample_counts(run.clusters, seed=seed)
    for label in run.labels:
        mine_N = run.labels_N == label
        count, times = int(mine_N.sum()), counts_RN[:, mine_N]
        for metric, value_NR in run.values.items():
            mean_R = value_NR[mine_N].mean(axis=0)
            if metric in list(Outcome) and run.samples == 1:
                bounds = [wilson(round(mean * count), count) for mean in mean_R]
            else:
                bounds = list(zip(*interval(_means(times, value_NR[mine_N])), strict=True))
            rows += [
                named(run.rules[r])
                | {"label": label, "metric": str(metric), "n": count, "value": float(mean_R[r])}
                | {"low": float(bounds[r][0]), "high": float(bounds[r][1])}
                for r in range(len(run.rules))
            ]
    return rows


def matched_rows(run: RuleRun, seed: int = 0) -> list[dict]:
    """Every rule that is not fixed against static truncation at its mean depth, by prompt.

    Static truncation at a depth between two fixed exits is their weighted mean, prompt by prompt:
    what drawing one of the two for every prompt would give. The weights hold for all prompts
    and are not drawn again in the bootstrap. Rules outside the fixed exits are left out.
    """
    fixed = sorted((threshold, r) for r, (_, p, threshold) in enumerate(run.rules) if p == "fixed")
    depth_R = run.values[MEAN_LAYERS].mean(axis=0)
    counts_RN = resample_counts(run.clusters, seed=seed)
    rows = []
    for r, rule in enumerate(run.rules):
        found = None if rule[1] == Policy.FIXED else _between(fixed, depth_R[r])
        if found is None:
            continue
        (below, b), (above, a), weight = found
        for label in run.labels:
            mine_N = run.labels_N == label
            for metric in (AGREEMENT, TEXT, *Outcome):
                value_NR = run.values[metric][mine_N]
                static_N = (1 - weight) * value_NR[:, b] + weight * value_NR[:, a]
                differs_N1 = (value_NR[:, r] - static_N)[:, None]
                low, high = interval(_means(counts_RN[:, mine_N], differs_N1))
                rows.append(
                    named(rule)
                    | {"label": label, "metric": str(metric), "n": int(mine_N.sum())}
                    | {"mean_layers": float(depth_R[r]), "below": int(below), "above": int(above)}
                    | {"difference": float(differs_N1.mean())}
                    | {"low": float(low[0]), "high": float(high[0])}
                )
    return rows


def write_policies(run: Run, seed: int, found: RuleRun | None = None) -> None:
    """Writes policies.parquet and matched.parquet, of all prompts or of those in `found`."""
    found = found or RuleRun.read(run.path)
    run.write_table(POLICIES, pa.Table.from_pylist(rate_rows(found, seed), POLICIES_SCHEMA))
    run.write_table(MATCHED, pa.Table.from_pylist(matched_rows(found, seed), MATCHED_SCHEMA))


def named(rule: tuple[str, str, float]) -> dict:
    """The columns that say which rule it is."""
    return dict(zip(("rule", "policy", "threshold"), rule, strict=True))


def _means(counts_RN: np.ndarray, value_NX: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts_RN @ value_NX) / counts_RN.sum(axis=1, keepdims=True)


def _between(fixed: Sequence[tuple[float, int]], depth: float):
    """The fixed exits below and above a depth, with their rules, and the weight of the upper."""
    for low, high in pairwise(fixed):
        if low[0] <= depth <= high[0]:
            return low, high, (depth - low[0]) / (high[0] - low[0])
    return None
