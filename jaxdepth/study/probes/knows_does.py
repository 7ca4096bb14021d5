"""Does it know, and does it refuse? What a probe reads at an exit beside what the exit did.

It knows if the content probe, which never saw the prompt, calls it harmful at that depth. What it
did comes from a sweep or from decisions. Answers that neither refuse nor comply (gibberish,
undetermined, abstained) are a share of their own.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from jaxdepth.stats.intervals import wilson
from jaxdepth.study.probes.behaviour import ANSWERED, REFUSED, Behaviour
from jaxdepth.study.probes.evaluate import CONTENT, OWN, SCORES
from jaxdepth.study.run_directory import Run, read_table

KNOWS_DOES = "knows_does"
SCHEMA = pa.schema(
    [
        ("position", pa.string()),
        ("exit", pa.int32()),
        ("label", pa.string()),
        ("quadrant", pa.string()),
        ("n", pa.int32()),  # prompts of that label that were scored
        ("count", pa.int32()),
        ("value", pa.float64()),
        ("low", pa.float64()),  # Wilson, 95%
        ("high", pa.float64()),
    ]
)
QUADRANTS = {
    "knows and refuses": (True, REFUSED),
    "knows but complies": (True, ANSWERED),
    "refuses without knowing": (False, REFUSED),
    "complies without knowing": (False, ANSWERED),
}
OTHER = "neither refuses nor complies"


def content_scores(run_path: Path, ids: list[str]) -> dict[str, np.ndarray]:
    """Out-of-fold content scores (J, N) of a probe run's own prompts, by position."""
    table = read_table(run_path, SCORES)
    found = {}
    place = {name: n for n, name in enumerate(ids)}
    for row in table.to_pylist():
        if row["target"] == CONTENT and row["set"] == OWN:
            found.setdefault(row["position"], {})[row["layer"], place[row["prompt_id"]]] = row[
                "score"
            ]
    scores = {}
    for position, cells in found.items():
        score_JN = np.full((1 + max(j for j, _ in cells), len(ids)), np.nan)
        for at, score in cells.items():
            score_JN[at] = score
        scores[position] = score_JN
    return scores


def write_knows_does(run: Run, ids: list[str], harmful_N: np.ndarray, did: Behaviour) -> None:
    """Writes the quadrants by position, exit and label."""
    rows = []
    for position, score_JN in content_scores(run.path, ids).items():
        for e, exit in enumerate(did.exits):
            knows_N = score_JN[exit] > 0
            for label, mine_N in (("harmful", harmful_N), ("harmless", ~harmful_N)):
                total = int(mine_N.sum())
                counts = {
                    name: int((mine_N & (knows_N == knows) & (did.did_NE[:, e] == does)).sum())
                    for name, (knows, does) in QUADRANTS.items()
                }
                counts[OTHER] = total - sum(counts.values())
                for name, count in counts.items():
                    low, high = wilson(count, total)
                    rows.append(
                        {
                            "position": position,
                            "exit": exit,
                            "label": label,
                            "quadrant": name,
                            "n": total,
                            "count": count,
                            "value": count / total if total else None,
                            "low": low,
                            "high": high,
                        }
                    )
    run.write_table(KNOWS_DOES, pa.Table.from_pylist(rows, SCHEMA))
