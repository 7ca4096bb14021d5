"""Directions of a probe run: saved for steering, and compared between categories of harm."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from jaxtyping import Bool, Float

from jaxdepth.probing.categories import category_directions, category_scores, compare_or, cosines
from jaxdepth.probing.direction import Directions, mean_difference, save_directions
from jaxdepth.probing.folds import make_folds
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.probes.evaluate import CHOSEN, CONTENT, OWN, Examples, Target
from jaxdepth.study.probes.tables import CATEGORIES, PROBES, SUM_OR_OR
from jaxdepth.study.run_directory import Run, read_frame

DIRECTIONS = "directions.safetensors"
# A category with fewer prompts has no stable direction.
_MIN_PROMPTS = 5


def write_directions(
    run: Run, base: str, prompts: Sequence[Prompt], targets: Sequence[Target]
) -> None:
    """Write a difference of means for every target and category at every position and layer.

    All prompts of the run are used, so steering has to be measured on other prompts.

    Args:
        run: a run with the residual streams of `prompts`.
        base: the checkpoint's fingerprint.
        prompts: the run's own prompts.
        targets: the probes' targets; one whose prompts are of one class is left out.
    """
    categories, category_NK = categories_of(prompts)
    harmful_N = np.array([p.label == "harmful" for p in prompts])
    arrays = {}
    for p, position in enumerate(run.record["settings"]["positions"]):
        x_JND = read_stream(run.path, OWN, p)
        for target in targets:
            if 0 < target.positive_M.sum() < len(target.positive_M):
                name = target.name.replace(" ", "_")
                arrays[f"{name}.{position}"] = mean_difference(
                    x_JND[:, target.rows_M], target.positive_M
                )
        if categories:
            direction_JKD = np.stack(
                [category_directions(x_ND, harmful_N, category_NK) for x_ND in x_JND]
            )
            for k, name in enumerate(categories):
                arrays[f"{name}.{position}"] = direction_JKD[:, k]
    settings = run.record["settings"]
    provenance = {
        "prompts_sha256": settings["prompts_sha256"],
        "harmful": int(harmful_N.sum()),
        "harmless": int((~harmful_N).sum()),
        "dtype": settings["dtype"],
        "jaxdepth": version("jaxdepth"),
    }
    directions = Directions(arrays, base, settings.get("adapter_sha256"), provenance)
    run.write_file(DIRECTIONS, lambda path: save_directions(path, directions))


def categories_of(prompts: Sequence[Prompt]) -> tuple[list[str], Bool[np.ndarray, "N K"]]:
    """The categories of the harmful prompts, and which prompts have which; `a+b` is both."""
    categories = [
        p.category.split("+") if p.category and p.label == "harmful" else [] for p in prompts
    ]
    names = sorted({name for of_prompt in categories for name in of_prompt})
    category_NK = np.array([[name in of for name in names] for of in categories], bool)
    category_NK = category_NK.reshape(len(prompts), len(names))
    keep_K = category_NK.sum(axis=0) >= _MIN_PROMPTS
    return [n for n, keep in zip(names, keep_K, strict=True) if keep], category_NK[:, keep_K]


def write_categories(run: Run, prompts: Sequence[Prompt], own: Examples, folds: int) -> None:
    """Write the cosines of the categories' directions, where content is read best.

    Where prompts have several categories, also whether refusal adds them up or takes the strongest.
    """
    names, category_NK = categories_of(prompts)
    if len(names) < 2:
        return
    position, layer = _best_layer(run)
    p = run.record["settings"]["positions"].index(position)
    x_ND = read_stream(run.path, OWN, p)[layer]
    cosine_KK = cosines(category_directions(x_ND, own.harmful_N, category_NK))
    keys = {"position": position, "layer": layer}
    rows = [
        keys
        | {
            "category": names[a],
            "other": names[b],
            "n": int(category_NK[:, a].sum()),
            "cosine": float(cosine_KK[a, b]),
        }
        for a, b in np.ndindex(cosine_KK.shape)
    ]
    run.write_table(CATEGORIES.name, CATEGORIES.from_rows(rows))
    several = int((category_NK.sum(axis=1) > 1).sum())
    if several:
        fold_N = make_folds(own.groups, own.harmful_N, folds)
        score_NK = category_scores(x_ND, own.harmful_N, category_NK, fold_N)
        test = compare_or(score_NK, category_NK, _refusal(run, own), fold_N, own.counts_RN)
        row = {
            "n": len(prompts),
            "n_of_two": several,
            "explained_by_sum": test.sum,
            "explained_by_or": test.or_,
            "difference": test.difference,
            "low": test.low,
            "high": test.high,
        }
        run.write_table(SUM_OR_OR.name, SUM_OR_OR.from_rows([keys | row]))


def _best_layer(run: Run) -> tuple[str, int]:
    """The position at which content is read best, and the median of the layers chosen there."""
    frame = read_frame(run.path, PROBES)
    frame = frame[(frame["probe"] == CHOSEN) & (frame["target"] == CONTENT)]
    best = frame.loc[frame["auroc"].idxmax()]
    return best["position"], int(np.median(best["chosen_layers"]))


def _refusal(run: Run, own: Examples) -> Float[np.ndarray, " N"]:
    """The refusal log-odds of every prompt at full depth, in nats."""
    frame = read_frame(run.path, FIRST_TOKEN)
    frame = frame[frame["exit"] == run.record["facts"]["depth"]].set_index("prompt_id")
    return frame["refusal_log_odds"].loc[own.ids].to_numpy(np.float64)
