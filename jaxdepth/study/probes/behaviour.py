"""What a model did with each prompt at each exit, from a run of `sweep` or of `decide`.

A sweep records the outcome of a text, decide a verdict: refuse and partial count as refused, comply
(to the point) as answered, and off-topic, degenerate, undetermined or abstained as neither.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.common_tables import GENERATIONS, check_once
from jaxdepth.study.prompting.sets import read_prompts_of
from jaxdepth.study.run_directory import changed_prompts, read_frame, read_record
from jaxdepth.study.verdicts.tables import VERDICT_TABLE

REFUSED, ANSWERED, NEITHER = 1, 0, -1
# Outcomes and verdicts; every other one is neither.
_BEHAVIOURS = {"refuse": REFUSED, "partial": REFUSED, "comply": ANSWERED}
# Two runs are of the same model if these settings agree; steering makes another model.
_SAME = ("model_fingerprint", "adapter_sha256", "steer", "directions_sha256", "direction")


@dataclass(frozen=True)
class Behaviour:
    """What a model did with each prompt at each exit."""

    exits: list[int]
    behaviour_NE: Int[np.ndarray, "N E"]  # REFUSED, ANSWERED or NEITHER
    digest: str  # SHA-256 of the table that it was read from

    @property
    def at_full_depth_N(self) -> Int[np.ndarray, " N"]:
        """At the deepest exit of the run."""
        return self.behaviour_NE[:, -1]


def read_behaviour(run_path: Path, prompts: Sequence[Prompt], settings: Mapping) -> Behaviour:
    """Read what a run recorded of some prompts, the first sample or vote of each.

    Args:
        run_path: a finished run of `jaxdepth sweep` with answers, or of `jaxdepth decide`.
        prompts: the prompts, which the run must have.
        settings: the resolved settings of the run that reads it, from `Subject.resolved`.

    Raises:
        InputError: no such run, it was of another model, or it lacks some of the prompts or full
            depth.
    """
    recorded = read_prompts_of(run_path)
    record = read_record(run_path)
    _check_model(run_path, record["settings"], settings)
    asked = {name: (p.messages, p.prefill) for name, p in recorded.items()}
    lacking = [p.prompt_id for p in prompts if asked.get(p.prompt_id) != (p.messages, p.prefill)]
    if lacking:
        raise InputError(
            f"{run_path} lacks {len(lacking)} of these prompts ({lacking[0]}): use its "
            "--prompts, --limit and --system"
        )
    table, sample, outcome = GENERATIONS, "sample", "outcome"
    if (Path(run_path) / f"{VERDICT_TABLE.name}.parquet").is_file():
        table, sample, outcome = VERDICT_TABLE, "vote", "verdict"
    frame = read_frame(run_path, table)
    check_once(frame, ["prompt_id", "exit", sample], f"{run_path}: the table {table.name}")
    exits = sorted(frame["exit"].unique().tolist())
    depth = record["facts"]["depth"]
    if depth not in exits[-1:]:
        raise InputError(f"{run_path} has no full depth: run it with exit {depth}")
    frame = frame[frame[sample] == 0]
    frame = frame.assign(behaviour=frame[outcome].map(_BEHAVIOURS).fillna(NEITHER))
    frame = frame.pivot(index="prompt_id", columns="exit", values="behaviour")
    frame = frame.reindex(index=[p.prompt_id for p in prompts], columns=exits).fillna(NEITHER)
    return Behaviour(exits, frame.to_numpy(int), record["tables"][table.name]["sha256"])


def _check_model(run_path: Path, recorded: Mapping, settings: Mapping) -> None:
    """Raise InputError where a run's recorded settings name another model than `settings`."""
    for name in _SAME:
        if recorded.get(name) != settings.get(name):
            raise InputError(
                f"{run_path} is a run of another model ({name} {recorded.get(name)}, not "
                f"{settings.get(name)}): name one of this model"
            )
    changed = changed_prompts(recorded, settings)
    if changed:
        raise InputError(
            f"{run_path} is a run with another {listed(changed)}: make it again with this model"
        )
