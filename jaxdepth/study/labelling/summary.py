"""What the labels of some runs show: progress, agreement of raters, and corrected rates."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from jaxdepth.refusal.outcome import Outcome
from jaxdepth.stats.agreement import cohens_kappa
from jaxdepth.stats.estimate import Estimate
from jaxdepth.study.labelling.answers import KEY
from jaxdepth.study.labelling.corrected import MIN_LABELS
from jaxdepth.study.labelling.session import LabelledRun, Session
from jaxdepth.study.labelling.tables import CORRECTED, LABELS
from jaxdepth.study.run_directory import read_frame, read_record
from jaxdepth.study.wording import runs_of_exits

_MAX_LISTED = 20  # disagreements that are printed


def progress_line(session: Session, rater: str) -> str:
    """How much of the sample a rater has labelled."""
    done, total = session.labelled, len(session.items)
    more = "" if done == total else "; the same command continues"
    return f"{done} of {total} texts are labelled by {rater}{more}."


def agreement_lines(runs: Sequence[LabelledRun]) -> Iterator[str]:
    """Agreement of every two raters over all runs, and where they disagree."""
    labels = _all_labels(runs)
    raters = list(dict.fromkeys(labels["rater"]))
    for number, first in enumerate(raters):
        for second in raters[number + 1 :]:
            yield from _two_raters(labels, first, second)


def labels_needed(plan: pd.DataFrame) -> int:
    """How many labels of a sample, in its order, hold one of each stratum."""
    return int((~plan["stratum"].duplicated()).to_numpy().nonzero()[0].max()) + 1


def _all_labels(runs: Sequence[LabelledRun]) -> pd.DataFrame:
    """The labels of all runs, with the pair of each prompt."""
    parts = []
    for run in runs:
        if LABELS.name in read_record(run.path)["tables"]:
            pairs = run.answers[[*KEY, "pair"]]
            parts.append(read_frame(run.path, LABELS).merge(pairs, on=KEY))
    return pd.concat(parts) if parts else pd.DataFrame(columns=[*LABELS.schema.names, "pair"])


def _two_raters(labels: pd.DataFrame, first: str, second: str) -> Iterator[str]:
    keys = ["run", *KEY]
    one, two = (labels[labels["rater"] == rater] for rater in (first, second))
    both = one.merge(two[[*keys, "label"]], on=keys, suffixes=("", "_2"))
    if both.empty:
        return
    agrees = both["label"] == both["label_2"]
    kappa = cohens_kappa(both["label"].tolist(), both["label_2"].tolist(), both["pair"].tolist())
    yield (
        f"{first} and {second} agree on {agrees.mean():.0%} of {len(both)} "
        f"answers of the sample; Cohen's kappa {kappa:.2f}."
    )
    different = both[~agrees]
    for row in different.head(_MAX_LISTED).itertuples(index=False):
        yield (
            f"  {row.run}, exit {row.exit}, {row.prompt_id}, sample {row.sample}: {row.label} by "
            f"{first}, {row.label_2} by {second}"
        )
    if len(different) > _MAX_LISTED:
        yield f"  and {len(different) - _MAX_LISTED} more; all are in labels.parquet"


def corrected_lines(run: LabelledRun) -> Iterator[str]:
    """What the labels change in a run: judged and corrected rates, side by side."""
    rates = read_frame(run.path, CORRECTED)
    name = run.path.resolve().name
    if rates.empty:
        yield f"{name}: not yet corrected; that needs its first {labels_needed(run.plan)} texts."
        return
    known = rates[rates["corrected"].notna()]
    yield (
        f"{name}: rates by the run's judge -> corrected by {rates['rater'].iloc[0]}'s labels "
        "[95% interval]; outcomes that neither has are left out, except comply"
    )
    for (label, exits), group in known.groupby(
        [known["label"], known["exits"].map(tuple)], sort=False
    ):
        changes = [
            f"{row.outcome} {row.value:.0%} -> "
            f"{Estimate(row.corrected, row.corrected_low, row.corrected_high):.0%}"
            for row in group.itertuples(index=False)
            if row.value or row.corrected or row.outcome == Outcome.COMPLY
        ]
        exits_E = np.array(exits)
        words = runs_of_exits(exits_E, np.ones(len(exits), bool))
        words = f"exit{'s' if len(exits) > 1 else ''} {words}"
        yield f"  {label}, {words} ({group['labels'].iloc[0]} labels): {'; '.join(changes)}"
    few = len(rates.groupby(["label", rates["exits"].map(tuple)])) - len(
        known.groupby(["label", known["exits"].map(tuple)])
    )
    if few:
        yield f"  {few} of the bands have fewer than {MIN_LABELS} labels and are not corrected"
