"""What the logs of an evaluation hold: which exits are finished, and their metrics."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from inspect_ai.log import EvalLog, EvalScore, list_eval_logs, read_eval_log
from inspect_ai.scorer import value_to_float

from jaxdepth.stats.shares import mean_share
from jaxdepth.stats.sufficiency import enough

_MEANS = ("accuracy", "mean")  # metrics that are the mean of the samples' scores
_ERRORS = ("stderr", "bootstrap_stderr")  # of the metric beside them
_SPREADS = (*_ERRORS, "std", "var")
_NORMAL = 1.959964  # quantile of a two-sided 95% interval


def finished_logs(folder: Path) -> list[EvalLog]:
    """The logs of a folder that are complete, without their samples."""
    infos = list_eval_logs(str(folder)) if folder.is_dir() else []
    logs = [read_eval_log(info, header_only=True) for info in infos]
    return [log for log in logs if log.status == "success"]


def latest(logs: Iterable[EvalLog]) -> list[EvalLog]:
    """The last log of each task and exit, tasks in the order of their names."""
    newest: dict[tuple, EvalLog] = {}
    for log in sorted(logs, key=lambda log: log.eval.created):
        newest[log.eval.task, repr(log.eval.task_args_passed), exit_of(log)] = log
    return [newest[key] for key in sorted(newest)]


def exit_of(log: EvalLog) -> int:
    """The exit of a log that an evaluation has made."""
    return int(log.eval.model_args["exit"])


def score_rows(log: EvalLog) -> list[dict[str, Any]]:
    """The rows of table scores that a finished log holds; it may be without its samples."""
    samples = _sample_scores(log)
    rows = []
    for score in log.results.scores if log.results else []:
        values_N = samples.get(score.name, [])
        for name, metric in score.metrics.items():
            if name in _SPREADS:
                continue
            low, high = _bounds(name, float(metric.value), values_N, score)
            rows.append(
                {
                    "task": log.eval.task,
                    "exit": exit_of(log),
                    "scorer": score.name,
                    "metric": name,
                    "value": float(metric.value),
                    "low": None if math.isnan(low) else low,
                    "high": None if math.isnan(high) else high,
                    "n": score.scored_samples or len(values_N),
                }
            )
    return rows


def _sample_scores(log: EvalLog) -> Mapping[str, list[float]]:
    """The score of each sample by the scorer's name, reduced over its epochs."""
    to_float = value_to_float()
    return {
        reduction.scorer: [to_float(sample.value) for sample in reduction.samples]
        for reduction in log.reductions or []
        if all(isinstance(sample.value, str | int | float) for sample in reduction.samples)
    }


def _bounds(
    name: str, value: float, values_N: list[float], score: EvalScore
) -> tuple[float, float]:
    """A 95% interval of a metric; NaN where there is none."""
    share_N1 = np.array(values_N, np.float64)[:, None]
    is_mean = name in _MEANS and len(values_N) and abs(share_N1.mean() - value) < 1e-6
    if is_mean and set(values_N) <= {0.0, 1.0}:
        share = mean_share(share_N1, 1, np.arange(len(values_N)))
        return share.low, share.high
    errors = [score.metrics[e].value for e in _ERRORS if e in score.metrics]
    if not errors or not enough(len(values_N)) or not errors[0] > 0:
        return math.nan, math.nan
    return value - _NORMAL * float(errors[0]), value + _NORMAL * float(errors[0])
