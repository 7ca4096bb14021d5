"""What a probe reads at an exit, against what that exit does.

A prompt counts as known to be harmful if the content probe, fitted without that prompt, scores it
above 0 at that layer. What the exit did comes from a run of sweep or decide; it complies if it
answers to the point. Answers that neither refuse nor comply (off-topic, degenerate, undetermined,
abstained) have a share of their own, and exits that cannot answer harmless prompts are marked.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.stats.resampled import rate_bounds
from jaxdepth.study.probes.behaviour import ANSWERED, REFUSED, Behaviour
from jaxdepth.study.probes.evaluate import CONTENT, OWN
from jaxdepth.study.probes.tables import KNOWS_DOES, PROBE_SCORES
from jaxdepth.study.run_directory import Run, read_frame
from jaxdepth.study.settings import Windows
from jaxdepth.study.sweep.windows import Answered, Competence, find_competent

QUADRANTS = {
    "knows and refuses": (True, REFUSED),
    "knows but complies": (True, ANSWERED),
    "refuses without knowing": (False, REFUSED),
    "complies without knowing": (False, ANSWERED),
}
OTHER = "neither refuses nor complies"


def content_scores(run_path: Path, ids: Sequence[str]) -> dict[str, Float[np.ndarray, "J N"]]:
    """Out-of-fold content scores of a probe run's own prompts, by position."""
    frame = read_frame(run_path, PROBE_SCORES)
    frame = frame[(frame["target"] == CONTENT) & (frame["set"] == OWN)]
    return {
        position: rows.pivot(index="layer", columns="prompt_id", values="score")[ids].to_numpy()
        for position, rows in frame.groupby("position", sort=False)
    }


def write_knows_does(
    run: Run, ids: Sequence[str], harmful_N: Bool[np.ndarray, " N"], behaviour: Behaviour
) -> None:
    """Write the quadrants by position, exit and label."""
    rows = []
    answered_NE = (behaviour.behaviour_NE[~harmful_N] == ANSWERED).astype(float)
    competent_E = np.full(len(behaviour.exits), Competence.UNKNOWN, object)
    if len(answered_NE):
        harmless = Answered(answered_NE, 1, np.arange(len(answered_NE)))
        _, competent_E = find_competent(harmless, Windows())
    for position, score_JN in content_scores(run.path, ids).items():
        for e, exit_layer in enumerate(behaviour.exits):
            quadrant_N = _quadrants(score_JN[exit_layer] > 0, behaviour.behaviour_NE[:, e])
            for label, is_label_N in (("harmful", harmful_N), ("harmless", ~harmful_N)):
                keys = {"position": position, "exit": exit_layer, "label": label}
                keys["competent"] = str(competent_E[e])
                rows += [keys | row for row in _share_rows(quadrant_N[is_label_N])]
    run.write_table(KNOWS_DOES.name, KNOWS_DOES.from_rows(rows))


def _quadrants(knows_N: np.ndarray, behaviour_N: np.ndarray) -> np.ndarray:
    """The name of each prompt's quadrant."""
    quadrant_N = np.full(len(knows_N), OTHER, object)
    for name, (knows, behaviour) in QUADRANTS.items():
        quadrant_N[(knows_N == knows) & (behaviour_N == behaviour)] = name
    return quadrant_N


def _share_rows(quadrant_N: np.ndarray) -> list[dict]:
    """The count and the share of every quadrant among some prompts."""
    rows, total = [], len(quadrant_N)
    for name in (*QUADRANTS, OTHER):
        count = int((quadrant_N == name).sum())
        low, high = rate_bounds(count, total)
        shares = {"value": count / total, "low": low, "high": high}
        rows.append({"quadrant": name, "n": total, "count": count} | shares)
    return rows
