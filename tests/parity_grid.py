"""The grid of configs on which our numbers are held against Hugging Face's."""

from itertools import combinations, product

import pytest
from tiny import LENGTH, raw_config

AXES = {
    "heads": {"mha": 4, "gqa": 2, "mqa": 1},
    "window": {"none": None, "below": 16, "equal": LENGTH},
    "tied": {"tied": True, "untied": False},
    "head_dim": {"even": 16, "odd": 24},  # D / Q is 16
    "theta": {"1e4": 1e4, "1e6": 1e6},
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def case_config(names: tuple[str, ...]) -> dict:
    heads, window, tied, head_dim, theta = (
        values[name] for values, name in zip(AXES.values(), names, strict=True)
    )
    return raw_config(
        num_key_value_heads=heads,
        sliding_window=window,
        tie_word_embeddings=tied,
        head_dim=head_dim,
        rope_theta=theta,
    )


def full_product() -> dict[str, dict]:
    """Every combination: case name -> config.json."""
    return {"-".join(names): case_config(names) for names in product(*AXES.values())}


def covering_set() -> dict[str, dict]:
    """A few combinations in which every pair of values occurs together, chosen greedily."""
    cases = list(product(*AXES.values()))

    def pairs(names):
        return set(combinations(enumerate(names), 2))

    open_pairs = set().union(*(pairs(c) for c in cases))
    chosen = []
    while open_pairs:
        best = max(cases, key=lambda c: len(pairs(c) & open_pairs))
        chosen.append(best)
        open_pairs -= pairs(best)
    return {"-".join(names): case_config(names) for names in chosen}


def some_now(cases: dict[str, dict], count: int = 4) -> list:
    """The names of all cases, as parameters: the first few now, the rest behind -m slow."""
    slow = pytest.mark.slow
    return [n if k < count else pytest.param(n, marks=slow) for k, n in enumerate(cases)]


def special_cases() -> dict[str, dict]:
    """What the grid does not vary: the llama family, scaled RoPE, a large epsilon."""
    llama = {"model_type": "llama", "sliding_window": None}
    return {
        "llama": raw_config(**llama),
        "llama3-rope": raw_config(**llama, rope_scaling=LLAMA3),
        "large-epsilon": raw_config(rms_norm_eps=0.1),
    }
