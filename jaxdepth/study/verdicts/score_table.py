"""The scores table of a finished run, by source and metric."""

from pathlib import Path

import numpy as np

from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.common_tables import check_once
from jaxdepth.study.run_directory import read_frame
from jaxdepth.study.verdicts.tables import SCORES


class ScoreTable:
    """Estimates over exits, by source and metric."""

    def __init__(self, run_path: str | Path):
        scores = read_frame(run_path, SCORES)
        key = ["source", "metric", "exit"]
        check_once(scores, key, f"{run_path}: the table {SCORES.name}")
        self.exits: list[int] = sorted(set(scores["exit"]))
        self.sources: list[str] = scores["source"].unique().tolist()
        self._scores = scores.set_index(key)

    def estimate(self, source: str, metric: str) -> Estimate:
        """A metric of a source at every exit; NaN where it was not measured."""
        index = [(source, metric, exit_layer) for exit_layer in self.exits]
        rows = self._scores.reindex(index)
        n = rows["n"].max()
        arrays = (rows[name].to_numpy() for name in ("value", "low", "high"))
        return Estimate(*arrays, n=0 if np.isnan(n) else int(n))

    @property
    def cuts(self) -> list[int]:
        """The lengths that thoughts were truncated to, in order."""
        return sorted(int(s.removeprefix("cut ")) for s in self.sources if s.startswith("cut "))
