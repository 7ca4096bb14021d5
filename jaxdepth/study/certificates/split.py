"""Calibration prompts, which decide what is certified, and test prompts, which report on it."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from jaxdepth.errors import InputError
from jaxdepth.study.certificates.measured import Measured
from jaxdepth.study.certificates.system import name_difference, system_of
from jaxdepth.study.common_tables import PROMPTS
from jaxdepth.study.run_directory import read_frame


def split_clusters(
    clusters_N: Shaped[np.ndarray, " N"],
    labels_N: Shaped[np.ndarray, " N"],
    share: float,
    seed: int,
) -> Bool[np.ndarray, " N"]:
    """Which prompts calibrate: about a share of the clusters of each kind, chosen by the seed.

    A cluster, such as a pair, is whole on one side. Its kind is the labels that its prompts have,
    so that both sides have both. The choice depends on names, labels and seed alone.
    """
    labels_of: dict[str, set[str]] = {}
    for cluster, label in zip(clusters_N.tolist(), labels_N.tolist(), strict=True):
        labels_of.setdefault(cluster, set()).add(label)
    rng, chosen = np.random.default_rng(seed), set()
    for kind in sorted({tuple(sorted(labels)) for labels in labels_of.values()}):
        names = sorted(c for c, labels in labels_of.items() if tuple(sorted(labels)) == kind)
        chosen |= {names[n] for n in rng.permutation(len(names))[: round(share * len(names))]}
    return np.array([cluster in chosen for cluster in clusters_N.tolist()], bool)


def split_run(measured: Measured, share: float, seed: int) -> tuple[Measured, Measured]:
    """The calibration and the test prompts of one run."""
    calibrates_N = split_clusters(measured.clusters_N, measured.labels_N, share, seed)
    return measured.select(calibrates_N), measured.select(~calibrates_N)


def check_apart(calibration: Measured, test: Measured) -> None:
    """Raise InputError for two runs of different models or settings, or that share a prompt."""
    systems = (system_of(run.record["settings"]) for run in (calibration, test))
    difference = name_difference(*systems)
    if difference is not None:
        raise InputError(
            f"{test.path} is no test of {calibration.path}: its {difference.split(',')[0]}; "
            "expected the same model and settings on other prompts"
        )
    missing = set(calibration.rules["rule"]) - set(test.rules["rule"])
    if missing:
        raise InputError(f"{test.path} lacks {min(missing)}: run it with the same exits")
    if _texts(calibration.path) & _texts(test.path):
        raise InputError(
            f"{calibration.path} and {test.path} share prompts: test on others, or give one run, "
            "which is split"
        )


def _texts(path: Path) -> set[str]:
    return set(read_frame(path, PROMPTS)["text"])
