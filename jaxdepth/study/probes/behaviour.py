"""What a model did, by prompt and exit, from the run of a sweep or of decisions.

A sweep tells it by outcomes of texts, a run of `decide` by verdicts: refused is refuse or partial,
answered is comply. What is degenerate, undetermined or abstained is neither.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.run_directory import read_record, read_table

REFUSED, ANSWERED, NEITHER = 1, 0, -1
_DID = {"refuse": REFUSED, "partial": REFUSED, "comply": ANSWERED}
# What makes two runs runs of the same model; a run that was steered is another model.
_SAME = ("model_fingerprint", "adapter_sha256", "steer", "directions_sha256", "direction")


@dataclass(frozen=True)
class Behaviour:
    """What was done with each prompt at each exit."""

    exits: list[int]
    did_NE: Int[np.ndarray, "N E"]  # REFUSED, ANSWERED or NEITHER, in the order of the prompts
    digest: str  # of the table that it was read from

    @property
    def at_full_depth_N(self) -> np.ndarray:
        """At the deepest exit of the run."""
        return self.did_NE[:, -1]


def read_behaviour(run_path: Path, prompts: Sequence[Prompt], settings: dict) -> Behaviour:
    """What a run recorded of some prompts, the first sample or vote of each.

    Args:
        run_path: a finished run of `jaxdepth sweep` with answers, or of `jaxdepth decide`.
        prompts: whose behaviour is wanted.
        settings: the recorded settings of the run that asks, as `Subject.decided` gives them.

    Raises:
        InputError: no such run, it was of another model, or it lacks some of the prompts or full
            depth.
    """
    told = {p["prompt_id"]: p["text"] for p in read_table(run_path, "prompts").to_pylist()}
    record = read_record(run_path)
    for name in _SAME:
        theirs, ours = record["settings"].get(name), settings.get(name)
        if theirs != ours:
            raise InputError(
                f"{run_path} is a run of another model ({name} {theirs}, here {ours}): name one of "
                "this model"
            )
    lacking = [p.prompt_id for p in prompts if told.get(p.prompt_id) != p.text]
    if lacking:
        raise InputError(
            f"{run_path} was not asked {len(lacking)} of these prompts ({lacking[0]}): use its "
            "--prompts and --limit"
        )
    name, sample, outcome = "generations", "sample", "outcome"
    if (Path(run_path) / "verdicts.parquet").is_file():
        name, sample, outcome = "verdicts", "vote", "verdict"
    table = read_table(run_path, name)
    exits = sorted(set(table["exit"].to_pylist()))
    if exits[-1] != record["facts"]["depth"]:
        raise InputError(
            f"{run_path} has no full depth: run it with exit {record['facts']['depth']}"
        )
    place_n = {p.prompt_id: n for n, p in enumerate(prompts)}
    place_e = {exit: e for e, exit in enumerate(exits)}
    did_NE = np.full((len(prompts), len(exits)), NEITHER)
    for row in table.select(["prompt_id", "exit", sample, outcome]).to_pylist():
        if row[sample] == 0 and row["prompt_id"] in place_n:
            did = _DID.get(row[outcome], NEITHER)
            did_NE[place_n[row["prompt_id"]], place_e[row["exit"]]] = did
    return Behaviour(exits, did_NE, record["tables"][name]["sha256"])
