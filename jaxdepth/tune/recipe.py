"""Recipes of depth-robust tuning: which exits are supervised, and by which loss, at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jaxdepth.errors import InputError
from jaxdepth.tune.batches import Batch
from jaxdepth.tune.loss import Weights
from jaxdepth.tune.tasks import Role

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
    contrast: float = 0.0  # weight of the contrast within pairs, beside that of their refusals
    rows_per_exit: int = 0  # rows that are sampled for an exit; 0 takes them all
    learns_layers: bool = True  # otherwise nothing that is learned changes full depth

    @property
    def distills(self) -> bool:
        """Whether early exits are distilled from full depth."""
        return self.target == "distill" and self.benign == "every"

    def exits(self, seed: int, step: int) -> list[int]:
        """The early exits of a step, in ascending order."""
        if "every" not in (self.refusals, self.benign):
            return []
        early = self.early
        if 0 < self.per_step < len(early):
            rng = np.random.default_rng((seed, step, 2))
            early = tuple(sorted(rng.choice(early, self.per_step, replace=False).tolist()))
        return list(early)

    def exit_weights(self, exits: Sequence[int]) -> Float[np.ndarray, " E"]:
        """The weight of each early exit of a step, where full depth has 1."""
        weight_E = np.array(exits, float) if self.deep_more else np.ones(len(exits))
        return (weight_E * (self.early_weight / max(weight_E.sum(), 1))).astype(np.float32)

    def weights(self, exits: Sequence[int], batch: Batch, seed: tuple[int, ...] = ()) -> Weights:
        """The weights of rows at the exits of a step; rows share a sequence's weight.

        Args:
            exits: from `exits`.
            batch: the batch.
            seed: of the rows that are sampled for each exit.
        """
        sequences = round(batch.share_R.sum())  # that are learned: the shares of each sum to 1
        weight_E1 = self.exit_weights(exits)[:, None]
        role_R, share_R = batch.role_R, batch.share_R / sequences
        rows_EN, times_EN = self._sampled_rows(exits, batch, seed)

        def early(is_learned_R) -> Float[np.ndarray, "E N"]:
            kept_ER = weight_E1 * np.where(is_learned_R, share_R, 0)
            if rows_EN is not None:
                kept_ER = np.take_along_axis(kept_ER, rows_EN, axis=1) * times_EN
            return kept_ER.astype(np.float32)

        refused_R, other_R = role_R == Role.REFUSED, role_R == Role.OTHER
        refuses_R = refused_R | (role_R == Role.DECISION)
        text_R = refuses_R & (self.refusals == "every")
        if self.benign == "every" and not self.distills:
            text_R |= other_R
        contrast_P = (self.contrast * batch.pair_P / sequences).astype(np.float32)
        at_early = self.refusals == "every"
        return Weights(
            # Full depth does not learn what only early exits are to say.
            np.where(role_R == Role.EARLY, 0, share_R).astype(np.float32)
            if self.learns_layers
            else None,
            np.array(exits, np.int32),
            early(text_R),
            early(other_R & self.distills),
            early(role_R == Role.EARLY) if batch.has_early else None,
            rows_EN,
            contrast_P if self.contrast else None,
            (weight_E1 * at_early * contrast_P).astype(np.float32) if self.contrast else None,
        )

    def _sampled_rows(
        self, exits: Sequence[int], batch: Batch, seed: tuple[int, ...]
    ) -> tuple[Int[np.ndarray, "E N"] | None, Float[np.ndarray, " N"] | None]:
        """The rows of each exit, and how many each stands for.

        Tokens that decide are always among them.
        """
        count = self.rows_per_exit
        decides = np.flatnonzero(batch.decides_R)
        others = np.flatnonzero((batch.share_R > 0) & ~batch.decides_R)
        if not 0 < count < len(decides) + len(others):
            return None, None
        if count <= len(decides):
            raise InputError(
                f"rows_per_exit is {count}, and {len(decides)} tokens of a batch decide: raise it"
            )
        rng, chosen = np.random.default_rng(seed), count - len(decides)
        rows = [np.concatenate([decides, rng.choice(others, chosen, replace=False)]) for _ in exits]
        times_N = np.repeat([1.0, len(others) / chosen], [len(decides), chosen])
        return np.array(rows, np.int32).reshape(-1, count), times_N
