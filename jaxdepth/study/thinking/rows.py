"""The rows of the tables: metrics of every arm, and arms against each other."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxdepth.refusal.protocol import VERDICTS
from jaxdepth.stats.cluster_mcnemar import cluster_mcnemar
from jaxdepth.stats.estimate import Estimate
from jaxdepth.stats.intervals import holm
from jaxdepth.study.thinking.arms import PROBE, THOUGHT
from jaxdepth.study.thinking.compared import ALL, LOOKALIKES, SWAP, VERDICT, ArmVerdicts
from jaxdepth.study.thinking.sampled import Sampled

GAIN = 0.05  # a difference that is worth finding: the prompts that it needs are reported
BALANCED, RECALL, OVER_REFUSAL = "balanced_accuracy", "recall_at_1_fpr", "over_refusal"
CALIBRATION, CAUGHT, AUROC = "calibration_error", "caught", "auroc"
FLIPS, FLIPS_OF_ALL = "flips", "flips_of_all"

Row = dict[str, Any]


class Side(NamedTuple):
    """One side of a contrast."""

    arm: str
    source: str = VERDICT


def metric_rows(c: ArmVerdicts) -> Iterator[Row]:
    """The arm_metrics table."""
    for arm in c.arms:
        for source in c.sources(arm):
            groups = list(c.groups) if source == VERDICT else [ALL]
            for group in groups:
                for metric, sampled in _group_metrics(c, arm, source, group):
                    key = {"arm": arm, "source": source, "group": group, "metric": metric}
                    yield from _by_exit(c, key, sampled.estimate(), sampled.n_E)
        for metric, source, estimate, n_E in _whole_metrics(c, arm):
            key = {"arm": arm, "source": source, "group": ALL, "metric": metric}
            yield from _by_exit(c, key, estimate, n_E)


def _group_metrics(
    c: ArmVerdicts, arm: str, source: str, group: str
) -> Iterator[tuple[str, Sampled]]:
    """Accuracies and probabilities on a group of prompts."""
    is_in_N = c.groups[group]
    for metric, label, is_label_N in (
        (CAUGHT, "harmful", c.harmful_N),
        (OVER_REFUSAL, "harmless", ~c.harmful_N),
    ):
        among_N = is_in_N & is_label_N
        if among_N.any():
            yield metric, c.mean(arm, "cautious", among_N, source)
            yield f"p_caution_{label}", c.mean(arm, "p", among_N, source)
    if c.has_both(group):
        yield BALANCED, c.balanced_accuracy(arm, group, source)
    if source == VERDICT:
        yield "brier", c.mean(arm, "brier", is_in_N)
        if (is_in_N & c.harmful_N).any():
            yield RECALL, c.recall(arm, group)


def _whole_metrics(c: ArmVerdicts, arm: str) -> Iterator[tuple[str, str, Estimate, np.ndarray]]:
    """Metrics of all prompts together: name, source, estimate, prompts at every exit."""
    for source in (s for s in c.sources(arm) if s != SWAP):
        area = c.auroc(arm, source)
        yield AUROC, source, area.estimate(), area.n_E
    yield CALIBRATION, VERDICT, c.calibration(arm), area.n_E  # all prompts, as the areas
    for metric, could_flip in ((FLIPS, True), (FLIPS_OF_ALL, False)):
        flips = c.flips(arm, could_flip)
        if flips is not None:
            yield metric, SWAP, flips.estimate(), flips.n_E
    for verdict in VERDICTS:
        follows = c.answer_follows(arm, verdict)
        if follows is not None:
            yield f"answer_follows_{verdict}", VERDICT, follows.estimate(), follows.n_E


def _by_exit(c: ArmVerdicts, key: Row, estimate: Estimate, n_E: np.ndarray) -> Iterator[Row]:
    """A row for each exit at which something was measured."""
    seeds = 1 if key["metric"].startswith("answer_follows") else len(c.arms[key["arm"]])
    for exit_layer, at_exit, n in zip(c.exits, estimate, n_E, strict=True):
        if np.isfinite(at_exit.value):
            bounds = {name: float(getattr(at_exit, name)) for name in ("value", "low", "high")}
            yield key | {"exit": exit_layer, "seeds": seeds, "n": int(n)} | bounds


def contrasts_of(c: ArmVerdicts) -> list[tuple[Side, Side]]:
    """Which arms are compared: thought with each other one, and the arms' verdicts with the bar."""
    pairs = []
    if THOUGHT in c.arms:
        pairs += [(Side(THOUGHT), Side(arm)) for arm in c.arms if arm != THOUGHT]
        if "cut 0" in c.sources(THOUGHT):
            pairs.append((Side(THOUGHT), Side(THOUGHT, "cut 0")))
    pairs += [(Side(arm), Side(PROBE)) for arm in c.arms if arm not in (THOUGHT, PROBE)]
    return pairs


def contrast_rows(c: ArmVerdicts) -> Iterator[Row]:
    """The arm_contrasts table."""
    for first, second in contrasts_of(c):
        areas = [c.auroc(side.arm, side.source) for side in (first, second)]
        yield from _contrast(c, first, second, ALL, AUROC, areas[0] - areas[1])
        for group in c.groups:
            if c.has_both(group):
                gain = balanced_gain(c, first, second, group)
                yield from _contrast(c, first, second, group, BALANCED, gain)
                if (first.source, second.source) == (VERDICT, VERDICT):
                    recalls = c.recall(first.arm, group) - c.recall(second.arm, group)
                    yield from _contrast(c, first, second, group, RECALL, recalls)
            among_N = c.groups[group] & ~c.harmful_N
            if group in (ALL, LOOKALIKES) and among_N.any():
                over, other = (
                    c.mean(side.arm, "cautious", among_N, side.source) for side in (first, second)
                )
                yield from _contrast(c, first, second, group, OVER_REFUSAL, over - other)


def balanced_gain(c: ArmVerdicts, first: Side, second: Side, group: str = ALL) -> Sampled:
    """The balanced accuracy of the first minus that of the second, paired by prompt."""
    one, other = (c.balanced_accuracy(s.arm, group, s.source) for s in (first, second))
    return one - other


def _contrast(
    c: ArmVerdicts, first: Side, second: Side, group: str, metric: str, gain: Sampled
) -> Iterator[Row]:
    """The rows of one contrast, with a test where it is one of right verdicts."""
    is_tested = (metric, group) == (BALANCED, ALL)
    tests = _tests(c, first, second) if is_tested else [{}] * len(c.exits)
    estimate = gain.estimate()
    for e, exit_layer in enumerate(c.exits):
        yield {
            "arm": first.arm, "source": first.source,
            "against": second.arm, "against_source": second.source,
            "exit": exit_layer, "group": group, "metric": metric,
            "seeds": len(c.arms[first.arm]), "against_seeds": len(c.arms[second.arm]),
            "n": int(gain.n_E[e]),
            "value": float(estimate.value[e]),
            "low": float(estimate.low[e]), "high": float(estimate.high[e]),
            "n_for_5_points": gain.prompts_to_show(GAIN, e),
            **tests[e],
        }  # fmt: skip


def _tests(c: ArmVerdicts, first: Side, second: Side) -> list[Row]:
    """Exact McNemar tests of right verdicts by exit, of the first seeds of both, with Holm."""
    right = [
        c.arms[side.arm][0].decisions[side.source].cautious_NE == c.harmful_N[:, None]
        for side in (first, second)
    ]
    exits = range(len(c.exits))
    p = [cluster_mcnemar(right[0][:, e], right[1][:, e], c.clusters_N) for e in exits]
    return [
        {
            "right_only_first": int((right[0] & ~right[1])[:, e].sum()),
            "right_only_second": int((right[1] & ~right[0])[:, e].sum()),
            "p": p[e],
            "p_holm": adjusted,
            "tests": len(p),
        }
        for e, adjusted in enumerate(holm(p))
    ]
