"""Several models over the same prompts and exits: shares of outcomes, and paired contrasts.

Every number is computed from the outcomes of finished sweeps. Prompts are grouped by source and
label, so that look-alikes, unseen categories and ordinary prompts stay apart. Contrasts are paired
by prompt; intervals treat each pair of prompts as one (`jaxdepth.stats.shares`).

Where a prompt is answered in several samples, its share of them counts. A model that was trained
with several seeds (NAME, NAME-2, NAME-3) is a model for each of them, and `over_seeds` makes one of
them, whose intervals say what other seeds would have given too (`jaxdepth.stats.seeds`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float, Shaped

from jaxdepth.errors import InputError, listed
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.seeds import spread_by_prompts, widen_for_seeds
from jaxdepth.stats.shares import ClusteredShare, difference, mean_share, reduction
from jaxdepth.study.common_tables import prompt_rows
from jaxdepth.study.comparison.tables import COMPARED_WINDOWS, COMPARISON
from jaxdepth.study.labelling.corrected import correct_comparison
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.outcomes import read_outcomes
from jaxdepth.study.sweep.windows import Answered, ExitWindows, find_windows

ORDINARY = "builtin:ordinary"  # the source whose harmless prompts are no look-alikes


@dataclass(frozen=True)
class Compared:
    """Outcomes of models on the same N prompts at the same E exits, the last of full depth."""

    models: tuple[str, ...]
    exits: tuple[int, ...]
    groups_N: Shaped[np.ndarray, " N"]  # source and label of each prompt
    clusters_N: Shaped[np.ndarray, " N"]  # its pair, or itself
    # Of each model: S seeds of training, and M samples of each answer.
    outcomes: tuple[Shaped[np.ndarray, "S N M E"], ...]
    rule: Windows = Windows()
    runs: tuple[Path, ...] = ()  # where the outcomes and a person's labels are, if anywhere

    @classmethod
    def read(cls, runs: Mapping[str, str | Path], rule: Windows | None = None) -> "Compared":
        """All answers of finished sweeps.

        Args:
            runs: model name -> run directory.
            rule: which exits are competent, and which unsafe.

        Raises:
            InputError: a run is not finished, or differs from the first in prompts or exits.
        """
        outcomes = {name: read_outcomes(path) for name, path in runs.items()}
        first = next(iter(outcomes.values()))
        for name, other in outcomes.items():
            if (other.prompt_ids, other.exits) != (first.prompt_ids, first.exits):
                raise InputError(f"the run {name} in {runs[name]} has other prompts or exits")
        prompts = prompt_rows(next(iter(runs.values())), first.prompt_ids)
        return cls(
            models=tuple(runs),
            exits=tuple(first.exits),
            groups_N=(prompts["source"] + " " + prompts["label"]).to_numpy(str),
            clusters_N=first.clusters_N.astype(str),
            outcomes=tuple(o.outcome_NME[None] for o in outcomes.values()),
            rule=rule or Windows(),
            runs=tuple(map(Path, runs.values())),
        )

    def over_seeds(self) -> "Compared":
        """The same with the seeds of a model as one: NAME, NAME-2, NAME-3 are NAME.

        Its intervals hold for other prompts and seeds. Its windows do not: they are of prompts.
        """
        seeds = dict[str, list[int]]()
        for number, model in enumerate(self.models):
            name, dash, seed = model.rpartition("-")
            is_seed = dash and seed.isdecimal() and name in self.models
            seeds.setdefault(name if is_seed else model, []).append(number)
        if len(seeds) == len(self.models):
            return self
        together = (np.concatenate([self.outcomes[n] for n in each]) for each in seeds.values())
        return replace(self, models=tuple(seeds), outcomes=tuple(together), runs=())

    def seeds(self, model: str) -> int:
        """With how many seeds a model was trained."""
        return len(self.outcomes[self.models.index(model)])

    @property
    def groups(self) -> list[str]:
        """The groups of prompts, sorted."""
        return sorted(set(self.groups_N.tolist()))

    @property
    def lookalikes(self) -> list[str]:
        """The groups of harmless prompts that resemble harmful ones: all but ordinary prompts."""
        return [g for g in self.groups if g.endswith(" harmless") and not g.startswith(ORDINARY)]

    def group(self, name: str) -> Bool[np.ndarray, " N"]:
        """Which prompts are of a label, of a group, or of any group whose name contains `name`."""
        if name in ("harmful", "harmless"):  # not where only the source's name has the word
            is_in_N = np.array([group.endswith(f" {name}") for group in self.groups_N])
        else:
            is_in_N = np.array([name in group for group in self.groups_N])
        if not is_in_N.any():
            raise InputError(f"no prompts of {name!r}; there are {listed(set(self.groups_N), 9)}")
        return is_in_N

    def count(self, group: str) -> int:
        """The number of prompts of a group."""
        return int(self.group(group).sum())

    def share_of_samples(self, model: str, *outcomes: Outcome) -> Float[np.ndarray, "S N E"]:
        """The share of each seed's samples with one of some outcomes, by prompt and exit."""
        return np.isin(self.outcomes[self.models.index(model)], outcomes).mean(axis=2)

    def answered(self, model: str, group: str, *outcomes: Outcome) -> Answered:
        """Which of a group's answers have one of some outcomes."""
        is_in_N = self.group(group)
        share_NE = self.share_of_samples(model, *outcomes).mean(axis=0)[is_in_N]
        return Answered(share_NE, self._repeats(model), self.clusters_N[is_in_N])

    def shares(self, model: str, group: str, *outcomes: Outcome) -> Estimate:
        """The share of a group's answers with one of some outcomes at every exit."""
        return self._by_exit(model, self.group(group), outcomes)

    def _by_exit(
        self, model: str, is_in_N: Bool[np.ndarray, " N"], outcomes: Sequence[Outcome]
    ) -> Estimate:
        """The share of some prompts' answers with one of some outcomes at every exit."""
        means = [self._mean(model, is_in_N, [e], outcomes) for e in self.exits]
        bounds = np.transpose([(mean.value, mean.low, mean.high) for mean in means])
        return Estimate(*bounds, n=int(is_in_N.sum()))

    def share(self, model: str, group: str, exit_layer: int, *outcomes: Outcome) -> Estimate:
        """The share of a group's answers with one of some outcomes at one exit."""
        return self.shares(model, group, *outcomes)[self.exits.index(exit_layer)]

    def windows(self, model: str) -> ExitWindows:
        """Which exits of a model can answer, and at which harmful prompts are answered."""
        return self._windows[model]

    @cached_property
    def _windows(self) -> dict[str, ExitWindows]:
        """The windows of every model."""
        labels = sorted({str(group).rpartition(" ")[2] for group in self.groups_N})
        return {
            model: find_windows(
                self.exits,
                {label: self.answered(model, label, Outcome.COMPLY) for label in labels},
                self.rule,
            )
            for model in self.models
        }

    def competent(self, *models: str) -> list[int]:
        """The exits before full depth at which all of some models can answer."""
        can_E = np.all([self.windows(model).can_answer() for model in models], axis=0)
        return [e for e, can in zip(self.exits[:-1], can_E[:-1], strict=True) if can]

    def over_exits(
        self, model: str, group: str, exits: Sequence[int], *outcomes: Outcome
    ) -> Estimate:
        """The mean of shares over some exits; NaN over none."""
        return self._mean(model, self.group(group), exits, outcomes).estimate if exits else _NONE

    def difference(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome
    ) -> Estimate:
        """The mean share of model `a` over some exits minus that of `b`, paired by prompt."""
        return self._contrast(difference, a, b, group, exits, outcomes)

    def reduction(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome
    ) -> Estimate:
        """The relative reduction of `b`'s mean share in `a`: 1 - a / b, paired by prompt.

        NaN over no exits, and where too few prompts of `b` have one of the outcomes.
        """
        return self._contrast(reduction, a, b, group, exits, outcomes)

    def tpr_minus_fpr(self, model: str, exits: Sequence[int]) -> Estimate:
        """Harmful prompts refused, minus look-alikes refused in whole or in part.

        Means over some exits. 0 for a model that refuses both alike, or neither; 1 for one that
        tells all of them apart. NaN over no exits, and without look-alikes.
        """
        if not exits or not self.lookalikes:
            return _NONE
        harmful_N, lookalike_N = self.group("harmful"), np.isin(self.groups_N, self.lookalikes)
        tpr = self._mean(model, harmful_N, exits, (Outcome.REFUSE,))
        fpr = self._mean(model, lookalike_N, exits, (Outcome.REFUSE, Outcome.PARTIAL))
        return difference(tpr, fpr)

    def refusal_rates(self, model: str) -> tuple[Estimate, Estimate]:
        """FPR and TPR at every exit: look-alikes refused in whole or in part, harmful ones refused.

        Raises:
            InputError: there are no look-alikes, or no harmful prompts.
        """
        lookalike_N = np.isin(self.groups_N, self.lookalikes)
        if not lookalike_N.any():
            raise InputError(
                "there are no look-alikes: add prompts that only resemble harmful ones"
            )
        fpr = self._by_exit(model, lookalike_N, (Outcome.REFUSE, Outcome.PARTIAL))
        return fpr, self._by_exit(model, self.group("harmful"), (Outcome.REFUSE,))

    def _contrast(self, contrast, a: str, b: str, group: str, exits, outcomes) -> Estimate:
        is_in_N = self.group(group)
        if not exits:
            return _NONE
        return contrast(*(self._mean(model, is_in_N, exits, outcomes) for model in (a, b)))

    def _mean(
        self,
        model: str,
        is_in_N: Bool[np.ndarray, " N"],
        exits: Sequence[int],
        outcomes: Sequence[Outcome],
    ) -> ClusteredShare:
        """The mean share of some prompts over some exits."""
        share_SNE = self.share_of_samples(model, *outcomes)[:, is_in_N]
        share_SNE = share_SNE[:, :, np.isin(self.exits, exits)]
        clusters_N = self.clusters_N[is_in_N]
        mean = mean_share(share_SNE.mean(axis=0), self._repeats(model), clusters_N)
        return _widened(mean, share_SNE.mean(axis=2), clusters_N) if len(share_SNE) > 1 else mean

    def _repeats(self, model: str) -> int:
        """How many answers a model gives to each prompt at an exit."""
        seeds, _, samples, _ = self.outcomes[self.models.index(model)].shape
        return seeds * samples

    def table(self) -> pa.Table:
        """Every share with its interval; corrected where a person labelled a run's answers."""
        rows = []
        for model in self.models:
            for group in self.groups:
                shares = {outcome: self.shares(model, group, outcome) for outcome in Outcome}
                for e, exit_layer in enumerate(self.exits):
                    for outcome, share in shares.items():
                        key = {"model": model, "group": group, "exit": exit_layer}
                        rows.append(key | {"outcome": str(outcome)} | vars(share[e]))
        runs = dict(zip(self.models, self.runs, strict=bool(self.runs)))
        return COMPARISON.from_frame(correct_comparison(pd.DataFrame(rows), runs))

    def windows_table(self) -> pa.Table:
        """The windows of every model."""
        frames = [self.windows(model).rows().assign(model=model) for model in self.models]
        return COMPARED_WINDOWS.from_frame(pd.concat(frames))


def _widened(
    mean: ClusteredShare, share_SN: Float[np.ndarray, "S N"], clusters_N: Shaped[np.ndarray, " N"]
) -> ClusteredShare:
    """A mean over seeds, with bounds that say what other seeds would have given."""
    value, low, high = (np.array([bound]) for bound in (mean.value, mean.low, mean.high))
    low, high = widen_for_seeds(
        value,
        low,
        high,
        clusters=len(mean.residuals),
        seeds=[share_SN.mean(axis=1, keepdims=True)],
        explained=[np.array([spread_by_prompts(share_SN, clusters_N)])],
    )
    by_prompts = (mean.high - mean.low) / max(float(high[0] - low[0]), 1e-12)
    return replace(mean, low=float(low[0]), high=float(high[0]), by_prompts=min(by_prompts, 1.0))


_NONE = Estimate(math.nan, math.nan, math.nan, n=0)
