"""Reading the finished runs of all arms, of the probe, and of the bar's answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import HARMFUL
from jaxdepth.study.common_tables import GENERATIONS, PROMPTS, one_row_each
from jaxdepth.study.run_directory import Run, read_frame, read_record
from jaxdepth.study.thinking.arms import PROBE
from jaxdepth.study.thinking.compared import SWAP, VERDICT, ArmVerdicts, Decisions, Replicate
from jaxdepth.study.thinking.run import StudyRuns
from jaxdepth.study.thinking.tables import PROBE_SCORES
from jaxdepth.study.verdicts.sources import RunVerdicts
from jaxdepth.study.verdicts.tables import CUTS, SWAPPED, VERDICT_NAMES, VERDICT_TABLE

# What decides a run's verdicts beside the adapter, as in run.json.
_ALIKE = ("model_fingerprint", "dtype", "int8", "prompts_sha256", "exits", "temperature", "seed")


def read_arms(runs: StudyRuns, seed: int) -> ArmVerdicts:
    """Read the verdicts of all arms that were run, and the probe's scores.

    Raises:
        InputError: no arm was run, a run differs from the first in more than its adapter, or the
            prompts have one label only.
    """
    paths = [(run.unit, run.path) for run in runs.units if run.path is not None]
    if not paths:
        raise InputError("no arm has been run: name some with --only, or let them be tuned")
    arms: dict[str, tuple[Replicate, ...]] = {}
    first = RunVerdicts(Run(paths[0][1], read_record(paths[0][1])))
    ids = first.prompt_ids.tolist()
    for unit, path in paths:
        verdicts = RunVerdicts(Run(path, read_record(path)))
        check_alike(
            path, verdicts.run.record["settings"], paths[0][1], first.run.record["settings"]
        )
        arms[unit.arm] = (*arms.get(unit.arm, ()), read_replicate(verdicts))
    arms[PROBE] = (read_probe(runs.probe, ids, first.exits),)
    prompts = read_frame(paths[0][1], PROMPTS)
    harmful_N = (prompts["label"] == HARMFUL).to_numpy()
    if len(set(harmful_N.tolist())) < 2:
        raise InputError("the prompts have one label only: give harmful and harmless ones")
    compared = ArmVerdicts(
        exits=tuple(first.exits),
        prompt_ids=tuple(ids),
        prompt_source_N=prompts["source"].to_numpy(str),
        harmful_N=harmful_N,
        clusters_N=np.array(first.clusters_N),
        arms=arms,
        seed=seed,
    )
    return (
        compared if runs.spoken is None else replace(compared, spoken_N=_spoken(runs.spoken, ids))
    )


def check_alike(path: Path, settings: Mapping, first_path: Path, first: Mapping) -> None:
    """Raise InputError where a run was not made as the first one was."""
    for name in _ALIKE:
        if settings.get(name) != first.get(name):
            raise InputError(
                f"{path} is a run with another {name} than {first_path}: run it again with the "
                "same settings, to a folder of its own"
            )


def read_replicate(verdicts: RunVerdicts) -> Replicate:
    """The decisions of one run of `jaxdepth decide`, first votes only."""
    first = verdicts.first_votes(VERDICT_TABLE)
    arrays = verdicts.to_arrays(first)
    missing = int((~arrays.present_NE).sum())
    if missing:
        raise InputError(
            f"{verdicts.run.path}: {missing} verdicts are missing, because activations were NaN or "
            "infinite: arms are compared on the same prompts; run it again with --dtype float32"
        )
    decisions = {VERDICT: Decisions.of(arrays)}
    for cut, rows in verdicts.first_votes(CUTS).groupby("cut"):
        decisions[f"cut {cut}"] = Decisions.of(verdicts.to_arrays(rows))
    if verdicts.run.finished(SWAPPED.name):
        decisions[SWAP] = Decisions.of(verdicts.to_arrays(verdicts.first_votes(SWAPPED)))
    outcome_NE = None
    if first["answer_outcome"].notna().any():
        outcome_NE = np.full(arrays.verdict_NE.shape, None, object)
        outcome_NE[verdicts.indices(first)] = first["answer_outcome"]
    names_NE = np.array(VERDICT_NAMES, object)[arrays.verdict_NE]
    return Replicate(decisions, names_NE, outcome_NE)


def read_probe(path: Path, prompt_ids: list[str], exits: list[int]) -> Replicate:
    """The probe's decisions: cautious where a prompt is more probably harmful than not."""
    scores, where = read_frame(path, PROBE_SCORES), f"{path}: the table {PROBE_SCORES.name}"
    at_exits = [
        one_row_each(scores[scores["exit"] == e], prompt_ids, f"{where} at exit {e}") for e in exits
    ]
    score_NE = np.stack([rows["score"].to_numpy(np.float64) for rows in at_exits], axis=1)
    return Replicate({VERDICT: Decisions(score_NE > 0, score_NE)})


def _spoken(path: Path, prompt_ids: list[str]) -> Shaped[np.ndarray, " N"]:
    rows = read_frame(path, GENERATIONS)
    rows = rows[(rows["exit"] == rows["exit"].max()) & (rows["sample"] == 0)]
    where = f"{path}: the table {GENERATIONS.name} at its deepest exit"
    return one_row_each(rows, prompt_ids, where)["outcome"].to_numpy(object)
