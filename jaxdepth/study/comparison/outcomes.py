"""Several models over the same prompts and exits: shares of outcomes, and paired contrasts.

Every number is computed from the outcomes of finished sweeps. Prompts are grouped by source and
label, so that look-alikes, unseen categories and ordinary prompts stay apart. Contrasts are paired
by prompt; their 95% intervals come from a bootstrap that resamples whole pairs of prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Shaped

from jaxdepth.errors import InputError, listed
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import interval, resample_counts, wilson
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.comparison.tables import COMPARISON
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.sweep.outcomes import read_outcomes


@dataclass(frozen=True)
class Compared:
    """Outcomes of M models on the same N prompts at the same E exits, the last of full depth."""

    models: tuple[str, ...]
    exits: tuple[int, ...]
    groups_N: Shaped[np.ndarray, " N"]  # source and label of each prompt
    clusters_N: Shaped[np.ndarray, " N"]  # its pair, or itself
    outcome_MNE: Shaped[np.ndarray, "M N E"]

    @classmethod
    def read(cls, runs: Mapping[str, str | Path]) -> "Compared":
        """The first sample of every answer in finished sweeps.

        Args:
            runs: model name -> run directory.

        Raises:
            InputError: a run is not finished, or differs from the first in prompts or exits.
        """
        outcomes = {name: read_outcomes(path) for name, path in runs.items()}
        first = next(iter(outcomes.values()))
        for name, other in outcomes.items():
            if (other.prompt_ids, other.exits) != (first.prompt_ids, first.exits):
                raise InputError(f"the run {name} in {runs[name]} has other prompts or exits")
        prompts = read_frame(next(iter(runs.values())), PROMPTS.name).set_index("prompt_id")
        prompts = prompts.loc[first.prompt_ids]
        return cls(
            models=tuple(runs),
            exits=tuple(first.exits),
            groups_N=(prompts["source"] + " " + prompts["label"]).to_numpy(str),
            clusters_N=prompts["pair_id"].fillna(prompts.index.to_series()).to_numpy(str),
            outcome_MNE=np.stack([o.outcome_NME[:, 0] for o in outcomes.values()]),
        )

    @property
    def groups(self) -> list[str]:
        """The groups of prompts, sorted."""
        return sorted(set(self.groups_N.tolist()))

    def group(self, name: str) -> Bool[np.ndarray, " N"]:
        """Which prompts are of a group, or of any group whose name contains `name`."""
        is_in_N = np.array([name in group for group in self.groups_N])
        if not is_in_N.any():
            raise InputError(f"no prompts of {name!r}; there are {listed(set(self.groups_N), 9)}")
        return is_in_N

    def count(self, group: str) -> int:
        """The number of prompts of a group."""
        return int(self.group(group).sum())

    def has_outcome(self, model: str, *outcomes: Outcome) -> Bool[np.ndarray, "N E"]:
        """Whether a model's answer to each prompt at each exit has one of some outcomes."""
        return np.isin(self.outcome_MNE[self.models.index(model)], outcomes)

    def shares(self, model: str, group: str, *outcomes: Outcome) -> Estimate:
        """The share of a group's answers with one of some outcomes at every exit (Wilson)."""
        is_NE = self.has_outcome(model, *outcomes)[self.group(group)]
        bounds = np.transpose([wilson(int(count), len(is_NE)) for count in is_NE.sum(axis=0)])
        return Estimate(is_NE.mean(axis=0), *bounds, n=len(is_NE))

    def share(self, model: str, group: str, exit_layer: int, *outcomes: Outcome) -> Estimate:
        """The share of a group's answers with one of some outcomes at one exit (Wilson)."""
        return self.shares(model, group, *outcomes)[self.exits.index(exit_layer)]

    def over_exits(
        self, model: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Estimate:
        """The mean of shares over some exits."""
        mean, resampled_R = self._mean(model, group, exits, outcomes, seed)
        return self._estimate(group, mean, resampled_R)

    def difference(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Estimate:
        """The mean share of model `a` over some exits minus that of `b`, paired by prompt."""
        mean_a, resampled_a_R = self._mean(a, group, exits, outcomes, seed)
        mean_b, resampled_b_R = self._mean(b, group, exits, outcomes, seed)
        return self._estimate(group, mean_a - mean_b, resampled_a_R - resampled_b_R)

    def reduction(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Estimate:
        """The relative reduction of `b`'s mean share in `a`: 1 - a / b, paired by prompt.

        NaN where `b`'s mean share is 0.
        """
        mean_a, resampled_a_R = self._mean(a, group, exits, outcomes, seed)
        mean_b, resampled_b_R = self._mean(b, group, exits, outcomes, seed)
        if not mean_b:
            return Estimate(math.nan, math.nan, math.nan, n=self.count(group))
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled_R = 1 - resampled_a_R / resampled_b_R
        return self._estimate(group, 1 - mean_a / mean_b, resampled_R)

    def _mean(
        self, model: str, group: str, exits: Sequence[int], outcomes: Sequence[Outcome], seed: int
    ) -> tuple[float, Float[np.ndarray, " R"]]:
        """The mean share over some exits, and its bootstrap resamples."""
        is_in_N, at_exits = self.group(group), np.isin(self.exits, exits)
        share_N = self.has_outcome(model, *outcomes)[is_in_N][:, at_exits].mean(axis=1)
        counts_RN = resample_counts(self.clusters_N[is_in_N], seed=seed)
        return float(share_N.mean()), counts_RN @ share_N / counts_RN.sum(axis=1)

    def _estimate(self, group: str, value: float, resampled_R: np.ndarray) -> Estimate:
        low_1, high_1 = interval(resampled_R[:, None])
        return Estimate(value, float(low_1[0]), float(high_1[0]), n=self.count(group))

    def table(self) -> pa.Table:
        """Every share with its interval."""
        rows = []
        for model in self.models:
            for group in self.groups:
                shares = {outcome: self.shares(model, group, outcome) for outcome in Outcome}
                for e, exit_layer in enumerate(self.exits):
                    for outcome, share in shares.items():
                        key = {"model": model, "group": group, "exit": exit_layer}
                        rows.append(key | {"outcome": str(outcome)} | vars(share[e]))
        return COMPARISON.from_rows(rows)
