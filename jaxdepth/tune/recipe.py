"""Recipes of depth-robust tuning: which exits are supervised, and by which loss, at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxdepth.tune.data import Batch
from jaxdepth.tune.loss import Weights

At = Literal["final", "every"]


@dataclass(frozen=True)
class Recipe:
    """The exits at which losses are applied, and their weights.

    Shallow safety is `refusals="final"`. Early-exit training as LayerSkip does it (Elhoushi et al.
    2024, arXiv:2404.16710) is "every" for both, with `deep_more`. Safety at every exit is "every"
    for both with `target="distill"`.
    """

    depth: int
    early: tuple[int, ...]  # the exits below full depth that may be supervised
    refusals: At  # the exits at which refusals are supervised
    benign: At  # the exits at which all other answers are supervised
    target: Literal["text", "distill"]  # of benign answers at early exits
    per_step: int  # early exits sampled for a step; 0 takes them all
    early_weight: float  # of all early exits of a step together; full depth has 1
    deep_more: bool  # weight early exits in proportion to their depth, else equally

    @property
    def distills(self) -> bool:
        """Whether early exits are distilled from full depth."""
        return self.target == "distill" and self.benign == "every"

    def exits(self, seed: int, step: int) -> list[int]:
        """The exits of a step, full depth last."""
        if "every" not in (self.refusals, self.benign):
            return [self.depth]
        early = self.early
        if 0 < self.per_step < len(early):
            rng = np.random.default_rng((seed, step, 2))
            early = tuple(sorted(rng.choice(early, self.per_step, replace=False).tolist()))
        return [*early, self.depth]

    def exit_weights(self, exits: Sequence[int]) -> Float[np.ndarray, " E"]:
        """The weight of each exit of a step, full depth last."""
        early = np.array(exits[:-1], float) if self.deep_more else np.ones(len(exits) - 1)
        early = early * (self.early_weight / early.sum()) if len(early) else early
        return np.append(early, 1.0).astype(np.float32)

    def weights(self, exits: Sequence[int], batch: Batch) -> Weights:
        """The weights of rows at the exits of a step; rows share a sequence's weight evenly."""
        sequences = len(batch.targets.tokens_BS)
        weight_E = self.exit_weights(exits)
        full_E = np.array(exits) == self.depth
        supervised_ER = np.where(
            batch.refuses_R,
            (full_E | (self.refusals == "every"))[:, None],
            (full_E | (self.benign == "every"))[:, None],
        )
        weights_ER = supervised_ER * weight_E[:, None] * batch.share_R / sequences
        distilled_ER = ~full_E[:, None] & ~batch.refuses_R if self.distills else False
        return Weights(
            np.array(exits, np.int32),
            np.where(distilled_ER, 0, weights_ER).astype(np.float32),
            np.where(distilled_ER, weights_ER, 0).astype(np.float32),
        )
