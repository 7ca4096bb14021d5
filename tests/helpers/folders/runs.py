"""Made-up finished runs: how many harmful and harmless prompts have which outcome at an exit."""

import functools

import numpy as np

from jaxdepth.study.common_tables import GENERATIONS, PROMPTS
from jaxdepth.study.policies.tables import DYNAMIC
from jaxdepth.study.run_directory import Run

SETTINGS = {
    "command": "sweep", "max_new_tokens": 24, "judge": "built-in", "outcome_rule": "r1",
    "model_fingerprint": "f" * 64, "dtype": "float32", "int8": False, "steer": "none",
    "prompts_sha256": "p" * 64, "samples": 1, "exits": [], "seed": 0,
}  # fmt: skip
FACTS = {"model": "models/made up", "adapter": None, "depth": 30}


def make_run(path, rules, pairs=200, first=0, settings=(), facts=(), labels=None, samples=1):
    """A run of static exits, or of rules where they are names.

    Args:
        path: of the run.
        rules: exit (or name, policy, threshold and mean layers of a rule) -> how many of 100 pairs
            comply when harmful, refuse when harmless, and are off-topic when harmless; the other
            harmful ones refuse and the other harmless ones comply. A fourth number is how many
            harmful ones are undetermined.
        pairs: how many.
        first: number of the first.
        settings: that differ.
        facts: that differ.
        labels: of the prompts, both by default.
        samples: of each prompt, all alike.
    """
    run = Run.open(path, SETTINGS | {"samples": samples} | dict(settings), FACTS | dict(facts))
    labels = labels or ("harmful", "harmless")
    prompts, rows = [], []
    for n in range(first, first + pairs):
        for label in labels:
            prompt_id = f"p{n:04d}-{label}"
            prompt = {"prompt_id": prompt_id, "text": prompt_id, "label": label, "source": "s"}
            prompts.append(prompt | {"pair_id": f"p{n:04d}"})
            for rule, counts in rules.items():
                outcome = outcome_of(label, n - first, *counts)
                for sample in range(samples):
                    row = {"prompt_id": prompt_id, "sample": sample, "outcome": outcome}
                    rows.append(row | columns_of(rule))
    run.write_table(PROMPTS.name, PROMPTS.from_rows(prompts))
    is_static = all(isinstance(rule, int) for rule in rules)
    table = GENERATIONS if is_static else DYNAMIC
    run.write_table(table.name, table.from_rows(rows))
    return run.path


@functools.cache
def _shuffled(seed):
    return np.random.default_rng(seed).permutation(100)


def outcome_of(label, n, complies, refuses, off_topic, undetermined=0) -> str:
    """Spread over the numbers, so that every half of the pairs has about the same rates."""
    place = _shuffled(n // 100)[n % 100]
    if label == "harmful":
        if place < complies:
            return "comply"
        return "undetermined" if place < complies + undetermined else "refuse"
    return "refuse" if place < refuses else "off-topic" if place < refuses + off_topic else "comply"


def columns_of(rule) -> dict:
    if isinstance(rule, int):
        return {"exit": rule}
    name, policy, threshold, layers = rule
    columns = {"rule": name, "policy": policy, "threshold": threshold, "mean_layers": layers}
    return columns | {"mean_exit": layers, "agreement": 1.0}


SAFE, UNSAFE, LOSSY = (0, 2, 0), (20, 2, 0), (0, 2, 30)
EXITS = {30: SAFE, 28: SAFE, 26: (0, 2, 1), 24: UNSAFE, 22: SAFE}
