"""Which exits are supervised by what, at each step: the experiment of depth-robust tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxdepth.tune.data import Batch
from jaxdepth.tune.loss import Weights

At = Literal["final", "every"]


@dataclass(frozen=True)
class Where:
    """Where the loss is applied.

    Shallow safety is `refusals="final"`. Early-exit training as LayerSkip does it (Elhoushi et al.
    2024, arXiv:2404.16710) is "every" for both, with `deep_more`. Safety at every exit is "every"
    for both with `target="distill"`.
    """

    depth: int
    early: tuple[int, ...]  # the exits below full depth that may be supervised
    refusals: At  # the exits at which a refusal is learnt
    benign: At  # and any other answer
    target: Literal["text", "distill"]  # of benign answers at early exits
    per_step: int  # how many early exits are drawn a step; 0 takes them all
    early_weight: float  # of all early exits of a step together; full depth has 1
    deep_more: bool  # early exits count in proportion to their depth, else alike

    @property
    def distills(self) -> bool:
        return self.target == "distill" and self.benign == "every"

    def exits(self, seed: int, step: int) -> list[int]:
        """The exits of a step, full depth last."""
        if "every" not in (self.refusals, self.benign):
            return [self.depth]
        early = self.early
        if 0 < self.per_step < len(early):
            draw = np.random.default_rng((seed, step, 2))
            early = sorted(draw.choice(early, self.per_step, replace=False).tolist())
        return [*early, self.depth]

    def exit_weights(self, exits: Sequence[int]) -> np.ndarray:
        """The weight of each exit of a step, full depth last."""
        early = np.array(exits[:-1], float) if self.deep_more else np.ones(len(exits) - 1)
        early = early * (self.early_weight / early.sum()) if len(early) else early
        return np.append(early, 1.0).astype(np.float32)

    def weights(self, exits: Sequence[int], batch: Batch) -> Weights:
        """Of every row at every exit of a step. A sequence's rows share its weight evenly."""
        sequences = len(batch.targets.tokens_BS)
        at_E = self.exit_weights(exits)
        full_E = np.array(exits) == self.depth
        learnt_ER = np.where(
            batch.refuses_R,
            (full_E | (self.refusals == "every"))[:, None],
            (full_E | (self.benign == "every"))[:, None],
        )
        weights_ER = learnt_ER * at_E[:, None] * batch.share_R / sequences
        distilled_ER = ~full_E[:, None] & ~batch.refuses_R if self.distills else False
        return Weights(
            np.array(exits, np.int32),
            np.where(distilled_ER, 0, weights_ER).astype(np.float32),
            np.where(distilled_ER, weights_ER, 0).astype(np.float32),
        )
