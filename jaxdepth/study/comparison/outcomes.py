"""Several models over the same prompts and exits: shares of outcomes, and paired contrasts.

Every number is computed from the outcomes of finished sweeps. Prompts are grouped by source and
label, so that look-alikes, unseen categories and ordinary prompts stay apart. Contrasts are paired
by prompt; intervals treat each pair of prompts as one (`jaxdepth.stats.shares`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Shaped

from jaxdepth.errors import InputError, listed
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.shares import ClusteredShare, difference, mean_share, reduction
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.comparison.tables import COMPARED_WINDOWS, COMPARISON
from jaxdepth.study.labelling.corrected import correct_comparison
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.outcomes import read_outcomes
from jaxdepth.study.sweep.windows import Answered, ExitWindows, find_windows

ORDINARY = "builtin:ordinary"  # the source whose harmless prompts are no look-alikes


@dataclass(frozen=True)
class Compared:
    """Outcomes of M models on the same N prompts at the same E exits, the last of full depth."""

    models: tuple[str, ...]
    exits: tuple[int, ...]
    groups_N: Shaped[np.ndarray, " N"]  # source and label of each prompt
    clusters_N: Shaped[np.ndarray, " N"]  # its pair, or itself
    outcome_MNE: Shaped[np.ndarray, "M N E"]
    rule: Windows = Windows()
    runs: tuple[Path, ...] = ()  # where the outcomes and a person's labels are, if anywhere

    @classmethod
    def read(cls, runs: Mapping[str, str | Path], rule: Windows | None = None) -> "Compared":
        """The first sample of every answer in finished sweeps.

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
        prompts = read_frame(next(iter(runs.values())), PROMPTS.name).set_index("prompt_id")
        prompts = prompts.loc[first.prompt_ids]
        return cls(
            models=tuple(runs),
            exits=tuple(first.exits),
            groups_N=(prompts["source"] + " " + prompts["label"]).to_numpy(str),
            clusters_N=first.clusters_N.astype(str),
            outcome_MNE=np.stack([o.outcome_NME[:, 0] for o in outcomes.values()]),
            rule=rule or Windows(),
            runs=tuple(map(Path, runs.values())),
        )

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

    def has_outcome(self, model: str, *outcomes: Outcome) -> Bool[np.ndarray, "N E"]:
        """Whether a model's answer to each prompt at each exit has one of some outcomes."""
        return np.isin(self.outcome_MNE[self.models.index(model)], outcomes)

    def answered(self, model: str, group: str, *outcomes: Outcome) -> Answered:
        """Which of a group's answers have one of some outcomes."""
        is_in_N = self.group(group)
        share_NE = self.has_outcome(model, *outcomes)[is_in_N].astype(np.float64)
        return Answered(share_NE, 1, self.clusters_N[is_in_N])

    def shares(self, model: str, group: str, *outcomes: Outcome) -> Estimate:
        """The share of a group's answers with one of some outcomes at every exit."""
        return self.answered(model, group, *outcomes).by_exit()

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
        is_NE = self.has_outcome(model, *outcomes)[is_in_N][:, np.isin(self.exits, exits)]
        return mean_share(is_NE, 1, self.clusters_N[is_in_N])

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


_NONE = Estimate(math.nan, math.nan, math.nan, n=0)
