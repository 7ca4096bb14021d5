"""Several models over the same prompts and exits: what each did, and paired contrasts between them.

Every number is of the outcome tables of finished sweeps. Prompts are grouped by source and label,
so that look-alikes, unseen categories and ordinary prompts stay apart. Contrasts are paired by
prompt; their intervals (95%) come from a bootstrap that draws whole pairs of prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, listed
from jaxdepth.model.config import read_config
from jaxdepth.prompts.datasets import cluster_of
from jaxdepth.refusal.outcome import Outcome
from jaxdepth.runtime.progress import ProgressBar, silent
from jaxdepth.stats.intervals import interval, resample_counts, wilson
from jaxdepth.study.comparison.settings import Study
from jaxdepth.study.run_directory import read_table, write_once
from jaxdepth.study.settings import UNTOUCHED, AdaptedModel, ExitStudy
from jaxdepth.study.sweep.curves import depth_curves
from jaxdepth.study.sweep.rates import read_outcomes, write_rates
from jaxdepth.study.sweep.run import sweep
from jaxdepth.study.sweep.settings import sweep_settings
from jaxdepth.study.tuning.run import ADAPTER
from jaxdepth.study.verdicts.run import run_decide
from jaxdepth.study.verdicts.settings import Decide, Interventions, Thinking
from jaxdepth.weights.adapter import brings_tokens

SCHEMA = pa.schema(
    [
        ("model", pa.string()),
        ("group", pa.string()),  # source and label
        ("exit", pa.int32()),
        ("outcome", pa.string()),
        ("n", pa.int32()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Share:
    """A share, difference or ratio with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.0%} [{self.low:.0%}, {self.high:.0%}]"


@dataclass(frozen=True)
class Compared:
    """Outcomes of the same prompts at the same exits, full depth the last, model by model."""

    models: tuple[str, ...]
    exits: tuple[int, ...]
    groups_N: np.ndarray  # source and label of each prompt
    clusters_N: np.ndarray  # its pair, or itself
    outcome_MNE: np.ndarray

    @classmethod
    def read(cls, runs: Mapping[str, str | Path]) -> "Compared":
        """The first sample of every answer in finished sweeps.

        Args:
            runs: model name -> run directory.

        Raises:
            InputError: a run is not finished, or differs from the first in prompts or exits.
        """
        found, first = [], None
        for name, path in runs.items():
            spoken = read_outcomes(path)
            first = first or spoken
            if (spoken.ids, spoken.exits) != (first.ids, first.exits):
                raise InputError(f"the run {name} in {path} has other prompts or exits")
            found.append(spoken.outcome_NME[:, 0])
        prompts = {p["prompt_id"]: p for p in read_table(path, "prompts").to_pylist()}
        told = [prompts[i] for i in first.ids]
        return cls(
            models=tuple(runs),
            exits=tuple(first.exits),
            groups_N=np.array([f"{p['source']} {p['label']}" for p in told]),
            clusters_N=np.array([cluster_of(p) for p in told]),
            outcome_MNE=np.stack(found),
        )

    def group(self, name: str) -> np.ndarray:
        """Which prompts are of a group, or of one of several whose names hold `name`."""
        mine_N = np.array([name in g for g in self.groups_N])
        if not mine_N.any():
            raise InputError(f"no prompts of {name!r}; there are {listed(set(self.groups_N), 9)}")
        return mine_N

    def did(self, model: str, *outcomes: Outcome) -> np.ndarray:
        """(N, E): whether an answer was one of those."""
        return np.isin(self.outcome_MNE[self.models.index(model)], outcomes)

    def share(self, model: str, group: str, exit: int, *outcomes: Outcome) -> Share:
        """The share of a group's prompts, with Wilson's interval."""
        did_N = self.did(model, *outcomes)[self.group(group), self.exits.index(exit)]
        low, high = wilson(int(did_N.sum()), len(did_N))
        return Share(float(did_N.mean()), low, high)

    def over_exits(
        self, model: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Share:
        """The mean share over exits."""
        resampled_R, value = self._means(model, group, exits, outcomes, seed)
        low, high = interval(resampled_R[:, None])
        return Share(value, float(low[0]), float(high[0]))

    def difference(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Share:
        """The mean share of model `a` over exits minus that of `b`, paired by prompt."""
        (first_R, first), (second_R, second) = (
            self._means(m, group, exits, outcomes, seed) for m in (a, b)
        )
        low, high = interval((first_R - second_R)[:, None])
        return Share(first - second, float(low[0]), float(high[0]))

    def reduction(
        self, a: str, b: str, group: str, exits: Sequence[int], *outcomes: Outcome, seed: int = 0
    ) -> Share:
        """By how much of `b`'s mean share `a`'s is smaller: 1 - a / b, paired by prompt.

        NaN where `b` has none to reduce.
        """
        (first_R, first), (second_R, second) = (
            self._means(m, group, exits, outcomes, seed) for m in (a, b)
        )
        if not second:
            return Share(math.nan, math.nan, math.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = interval((1 - first_R / second_R)[:, None])
        return Share(1 - first / second, float(low[0]), float(high[0]))

    def _means(self, model, group, exits, outcomes, seed) -> tuple[np.ndarray, float]:
        places = [self.exits.index(e) for e in exits]
        mine_N = self.group(group)
        did_N = self.did(model, *outcomes)[mine_N][:, places].mean(axis=1)
        counts_RN = resample_counts(self.clusters_N[mine_N], seed=seed)
        return counts_RN @ did_N / counts_RN.sum(axis=1), float(did_N.mean())

    def table(self) -> pa.Table:
        """Every share with its interval."""
        rows = []
        for model in self.models:
            for group in sorted(set(self.groups_N)):
                for exit in self.exits:
                    for outcome in Outcome:
                        share = self.share(model, group, exit, outcome)
                        rows.append(
                            {"model": model, "group": group, "exit": exit, "outcome": str(outcome)}
                            | {"n": int(self.group(group).sum()), **vars(share)}
                        )
        return pa.Table.from_pylist(rows, SCHEMA)


def run_study(settings: Study, bar: ProgressBar = silent) -> Compared:
    """Sweeps the checkpoint as it is and with each adapter, and puts them side by side.

    Coherence is judged by the same reference for all: the untouched checkpoint, if none is named.

    Raises:
        InputError: as for `sweep`; two adapters have one name.
    """
    study, runs = settings.study, dict[str, Path]()
    for adapter in settings.adapters:
        name = model_name(adapter)
        if name in runs:
            raise InputError(f"two of the adapters are called {name}: rename a file")
        runs[name] = study.output.out / name
    if not study.answers.max_new_tokens:
        raise InputError("max_new_tokens is 0: a comparison is of what is said")
    depth = read_config(study.model.model / "config.json")[0].num_hidden_layers
    exits = study.decoding.exits
    if depth not in parse_exits(exits, depth):
        raise InputError(f"exits {exits} leave out full depth: add {depth}")
    for adapter, (name, path) in zip(settings.adapters, runs.items(), strict=True):

        def named(what: str, unit: str, name=name):
            return bar(f"{name}: {what}", unit)

        adapter = None if adapter == UNTOUCHED else adapter
        run_one(study, AdaptedModel(**vars(study.model), adapter=adapter), path, named)
    compared = Compared.read(runs)
    file = study.output.out / "comparison.parquet"
    write_once(file, lambda p: pq.write_table(compared.table(), p, compression="zstd"))
    return compared


def run_one(study: ExitStudy, model: AdaptedModel, out: Path, bar: ProgressBar) -> None:
    """Sweeps one model of a study; a model that was tuned to decide first decides, then answers.

    Coherence is judged by the study's reference, or by the untouched checkpoint.
    """
    texts = replace(study.texts, reference=study.texts.reference or study.model.model)
    study = replace(study, texts=texts)
    output = replace(study.output, out=out)
    if model.adapter is None or not brings_tokens(model.adapter):
        run = sweep(sweep_settings(study, model, output), bar)
        write_rates(run, depth_curves(run.path, output.seed), output.seed)
        return
    run_decide(
        Decide(
            model=model,
            prompts=study.prompts,
            thinking=Thinking("tuned", answer_tokens=study.answers.max_new_tokens),
            decoding=study.decoding,
            interventions=Interventions(cuts=(), swap=False, force=False, cost_rounds=0),
            texts=texts,
            steering=study.steering,
            devices=study.devices,
            output=output,
        ),
        bar,
    )


def model_name(adapter: str) -> str:
    """What a model with an adapter is called: after its file, or the run that made it."""
    path = Path(adapter.removeprefix("builtin:"))
    return path.parent.name if path.name == ADAPTER else path.name.removesuffix(".safetensors")
