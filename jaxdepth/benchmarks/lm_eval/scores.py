"""Metrics by exit with intervals, from lm-eval's results and what it says of each document."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from lm_eval.api.metrics import bits_per_byte, mean, perplexity, weighted_perplexity
from lm_eval.api.task import Task
from scipy.stats import norm

from jaxdepth.stats.intervals import resample_counts
from jaxdepth.stats.resampled import DIFFERENCE, UNIT, rate_bounds, resampled_bounds

_ACCURACIES = ("acc", "acc_norm", "acc_bytes")
_Number = int | float | np.number
# Statistics that are a function of a ratio of two sums over documents.
_OF_RATIO: dict[Callable, Callable] = {
    mean: lambda ratio: ratio,
    perplexity: lambda ratio: np.exp(-ratio),
    weighted_perplexity: lambda ratio: np.exp(-ratio),
    bits_per_byte: lambda ratio: -ratio / np.log(2),
}


class _Documents(NamedTuple):
    """What a metric takes of each document at each exit: numerators and denominators."""

    numerator_NE: Float[np.ndarray, "N E"]
    denominator_N: Float[np.ndarray, " N"]


def score_rows(
    exits: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    tasks: Mapping[str, Task],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The rows of table `scores`.

    A metric that is no mean and no perplexity, such as F1 over all documents, has no interval.

    Args:
        exits: of the results.
        results: lm-eval's, with samples.
        tasks: by name.
        seed: of bootstrap resamples.
    """
    rows: list[dict[str, Any]] = []
    for name, of_task in results[0]["results"].items():
        for key in of_task:
            metric, comma, chosen = key.partition(",")
            is_number = all(isinstance(r["results"][name][key], _Number) for r in results)
            if not comma or metric.endswith("_stderr") or not is_number:
                continue
            values_E = np.array([r["results"][name][key] for r in results], np.float64)
            if name in tasks:
                columns = _of_task(exits, results, tasks[name], metric, chosen, values_E, seed)
            else:
                columns = _of_group(results, name, f"{metric}_stderr,{chosen}", values_E)
            higher = results[0]["higher_is_better"].get(name, {}).get(metric)
            for e, exit_layer in enumerate(exits):
                of_exit = {column: array[e] for column, array in columns.items()}
                rows.append(
                    {
                        "task": name,
                        "is_group": name not in tasks,
                        "metric": metric,
                        "scorer": chosen,
                        "exit": exit_layer,
                        "value": values_E[e],
                        "n": of_task["sample_len"],
                        "higher_is_better": higher,
                        **{k: float(v) for k, v in of_exit.items() if np.isfinite(v)},
                    }
                )
    return rows


def _of_task(
    exits: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    task: Task,
    metric: str,
    chosen: str,
    values_E: Float[np.ndarray, " E"],
    seed: int,
) -> dict[str, np.ndarray]:
    samples = [
        [s for s in r["samples"][task.config.task] if s["filter"] == chosen and metric in s]
        for r in results
    ]
    columns = {"chance": np.full(len(exits), _chance(task, metric, samples[0]))}
    of_ratio = _OF_RATIO.get(task.aggregation().get(metric, mean))
    documents = None if of_ratio is None else _documents(samples, metric)
    if of_ratio is None or documents is None:
        return columns
    numerator_NE, denominator_N = documents
    N = len(denominator_N)
    is_share = of_ratio is _OF_RATIO[mean] and bool(np.isin(numerator_NE, (0, 1)).all())
    is_unit = is_share or (
        of_ratio is _OF_RATIO[mean] and bool(((numerator_NE >= 0) & (numerator_NE <= 1)).all())
    )
    counts_RN = resample_counts(np.arange(N), seed=seed)
    resampled_RE = of_ratio((counts_RN @ numerator_NE) / (counts_RN @ denominator_N)[:, None])
    if is_share:
        bounds = [rate_bounds(int(count), N) for count in numerator_NE.sum(axis=0)]
        columns["low"], columns["high"] = np.array(bounds).T
    else:
        unit = UNIT if is_unit else None
        columns["low"], columns["high"] = resampled_bounds(values_E, resampled_RE, N, unit)
    return columns | _minus_full(exits, results, values_E, resampled_RE, N, is_unit)


def _minus_full(
    exits: Sequence[int],
    results: Sequence[Mapping[str, Any]],
    values_E: Float[np.ndarray, " E"],
    resampled_RE: Float[np.ndarray, "R E"],
    N: int,
    is_unit: bool,
) -> dict[str, np.ndarray]:
    """Differences to full depth, paired by document; none at full depth itself."""
    depth = results[0]["config"]["depth"]
    if depth not in exits:
        return {}
    full = list(exits).index(depth)
    difference_E = values_E - values_E[full]
    low_E, high_E = resampled_bounds(
        difference_E,
        resampled_RE - resampled_RE[:, [full]],
        N,
        DIFFERENCE if is_unit else None,
    )
    for array in (difference_E, low_E, high_E):
        array[full] = np.nan
    return {"minus_full": difference_E, "minus_full_low": low_E, "minus_full_high": high_E}


def _documents(samples: Sequence[Sequence[Mapping]], metric: str) -> _Documents | None:
    """What the documents contribute; None where they are no numbers, or not of all exits."""
    values = [[sample[metric] for sample in of_exit] for of_exit in samples]
    if len({len(of_exit) for of_exit in values}) != 1 or not values[0]:
        return None
    if all(isinstance(v, _Number | bool) for of_exit in values for v in of_exit):
        numerator_NE = np.array(values, np.float64).T
        return _Documents(numerator_NE, np.ones(len(numerator_NE)))
    if all(isinstance(v, tuple) and len(v) == 2 for of_exit in values for v in of_exit):
        array_EN2 = np.array(values, np.float64)
        return _Documents(array_EN2[..., 0].T, array_EN2[0, :, 1])
    return None


def _chance(task: Task, metric: str, samples: Sequence[Mapping]) -> float:
    """The accuracy of guessing among choices of which one is right; NaN for all else."""
    is_choice = task.OUTPUT_TYPE == "multiple_choice" and metric in _ACCURACIES
    is_plain = is_choice and "acc_mutual_info" not in task.aggregation()
    if not is_plain or not all(isinstance(sample["target"], int | str) for sample in samples):
        return float("nan")
    return float(np.mean([1 / len(sample["arguments"]) for sample in samples]))


def _of_group(
    results: Sequence[Mapping[str, Any]],
    name: str,
    stderr: str,
    values_E: Float[np.ndarray, " E"],
) -> dict[str, np.ndarray]:
    """The normal interval of lm-eval's own standard error of a group."""
    errors = [r["results"][name].get(stderr) for r in results]
    if not all(isinstance(error, _Number) for error in errors):
        return {}
    half_E = norm.ppf(0.975) * np.array(errors, np.float64)
    return {"low": values_E - half_E, "high": values_E + half_E}
