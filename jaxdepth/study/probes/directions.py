"""Directions of a probe run: saved for steering, and compared between categories of harm."""

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import pyarrow as pa

from jaxdepth.probing.categories import category_directions, category_scores, compare_or, cosines
from jaxdepth.probing.direction import Directions, mean_difference, save_directions
from jaxdepth.probing.folds import make_folds
from jaxdepth.prompts.datasets import Prompt
from jaxdepth.study.common_tables import FIRST_TOKEN
from jaxdepth.study.probes.activations import read_stream
from jaxdepth.study.probes.evaluate import CHOSEN, CONTENT, OWN, PROBES, Examples, Target
from jaxdepth.study.run_directory import Run, read_table

DIRECTIONS = "directions.safetensors"
CATEGORIES, OR_TEST = "categories", "sum_or_or"
CATEGORIES_SCHEMA = pa.schema(
    [
        ("position", pa.string()),
        ("layer", pa.int32()),
        ("category", pa.string()),
        ("other", pa.string()),
        ("n", pa.int32()),  # prompts of the category
        ("cosine", pa.float64()),
    ]
)
OR_SCHEMA = pa.schema(
    [
        ("position", pa.string()),
        ("layer", pa.int32()),
        ("n", pa.int32()),
        ("n_of_two", pa.int32()),  # prompts of more than one category
        ("explained_by_sum", pa.float64()),  # held-out share of the variance of refusal log-odds
        ("explained_by_or", pa.float64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
# A category with fewer prompts has no direction worth naming.
_LEAST = 5


def write_directions(
    run: Run, base: str, prompts: Sequence[Prompt], targets: Sequence[Target]
) -> None:
    """Writes a difference of means for every target and category at every position and layer.

    All prompts of a run are in them: steer with other prompts than these.
    """
    names, category_NK = categories_of(prompts)
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
        if names:
            of_JKD = np.stack([category_directions(x, harmful_N, category_NK) for x in x_JND])
            for k, name in enumerate(names):
                arrays[f"{name}.{position}"] = of_JKD[:, k]
    s = run.record["settings"]
    made = {
        "prompts_sha256": s["prompts_sha256"],
        "harmful": int(harmful_N.sum()),
        "harmless": int((~harmful_N).sum()),
        "dtype": s["dtype"],
        "jaxdepth": version("jaxdepth"),
    }
    found = Directions(arrays, base, s.get("adapter_sha256"), made)
    run.write_file(DIRECTIONS, lambda path: save_directions(path, found))


def categories_of(prompts: Sequence[Prompt]) -> tuple[list[str], np.ndarray]:
    """The categories that harmful prompts have, and who has which (N, K); `a+b` is of both."""
    of = [p.category.split("+") if p.category and p.label == "harmful" else [] for p in prompts]
    names = sorted({name for mine in of for name in mine})
    has_NK = np.array([[name in mine for name in names] for mine in of], bool)
    has_NK = has_NK.reshape(len(prompts), len(names))
    keep_K = has_NK.sum(axis=0) >= _LEAST
    return [n for n, keep in zip(names, keep_K, strict=True) if keep], has_NK[:, keep_K]


def write_categories(run: Run, prompts: Sequence[Prompt], own: Examples, folds: int) -> None:
    """Writes the cosines of the categories' directions, where content is read best.

    Where prompts have several categories, also whether refusal adds them up or takes the strongest.
    """
    names, category_NK = categories_of(prompts)
    if len(names) < 2:
        return
    position, layer = _best(run)
    place = run.record["settings"]["positions"].index(position)
    x_ND = read_stream(run.path, OWN, place)[layer]
    cosine_KK = cosines(category_directions(x_ND, own.harmful_N, category_NK))
    at = {"position": position, "layer": layer}
    rows = [
        at
        | {
            "category": names[a],
            "other": names[b],
            "n": int(category_NK[:, a].sum()),
            "cosine": float(cosine_KK[a, b]),
        }
        for a, b in np.ndindex(cosine_KK.shape)
    ]
    run.write_table(CATEGORIES, pa.Table.from_pylist(rows, CATEGORIES_SCHEMA))
    several = int((category_NK.sum(axis=1) > 1).sum())
    if several:
        fold_N = make_folds(own.groups, own.harmful_N, folds)
        score_NK = category_scores(x_ND, own.harmful_N, category_NK, fold_N)
        found = compare_or(score_NK, category_NK, _refusal(run, own), fold_N, own.counts_RN)
        row = (
            at
            | {"n": len(prompts), "n_of_two": several}
            | dict(zip(OR_SCHEMA.names[4:], found, strict=True))
        )
        run.write_table(OR_TEST, pa.Table.from_pylist([row], OR_SCHEMA))


def _best(run: Run) -> tuple[str, int]:
    """Where the nested choice of layer reads content best: the position, the middle of layers."""
    rows = [
        r
        for r in read_table(run.path, PROBES).to_pylist()
        if r["probe"] == CHOSEN and r["target"] == CONTENT
    ]
    best = max(rows, key=lambda r: r["auroc"])
    return best["position"], int(np.median(best["chosen_layers"]))


def _refusal(run: Run, own: Examples) -> np.ndarray:
    """The refusal log-odds of every prompt at full depth."""
    depth = run.record["facts"]["depth"]
    rows = read_table(run.path, FIRST_TOKEN.name).to_pylist()
    of = {r["prompt_id"]: r["refusal_log_odds"] for r in rows if r["exit"] == depth}
    return np.array([of[i] for i in own.ids])
