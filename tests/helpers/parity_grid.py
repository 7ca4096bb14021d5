"""The grid of configs, and the families, on which our numbers are held against Hugging Face's."""

from itertools import combinations, product

import pytest
from tiny import LENGTH, VOCAB, raw_config

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


LLAMA = {"model_type": "llama", "sliding_window": None}
QWEN2 = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "use_sliding_window": False,  # so that these two mean nothing
    "sliding_window": 16,
    "max_window_layers": 2,
}


def families() -> dict[str, dict]:
    """Tiny configs with the shape and the quirks of each supported family, as docs/families.md."""
    smaller_heads = {"head_dim": 12}  # their sizes do not add up to the width
    return {
        "mistral-7b-v0.1": raw_config(num_key_value_heads=1, sliding_window=16),
        "mistral-7b-v0.2": raw_config(num_key_value_heads=1, rope_theta=1e6),
        "mistral-7b-v0.3": raw_config(num_key_value_heads=1, rope_theta=1e6, vocab_size=VOCAB + 8),
        "zephyr": raw_config(sliding_window=16, vocab_size=VOCAB + 1, pad_token_id=2),
        "mistral-nemo": raw_config(**smaller_heads, rope_theta=1e6, vocab_size=VOCAB + 32),
        "mistral-small-3": raw_config(**smaller_heads, rope_theta=1e8, hidden_size=60),
        "ministral": raw_config(
            model_type="ministral",
            rope_theta=1e8,
            sliding_window=16,
            layer_types=["full_attention"] + ["sliding_attention"] * 3,
        ),
        "llama-1": raw_config(
            **LLAMA, num_key_value_heads=None, rms_norm_eps=1e-6, max_sequence_length=2048
        ),
        "llama-2": raw_config(**LLAMA, num_key_value_heads=1, pretraining_tp=1, rope_scaling=None),
        "llama-3": raw_config(**LLAMA, rope_theta=5e5, vocab_size=VOCAB + 32),
        "llama-3.1": raw_config(**LLAMA, rope_theta=5e5, rope_scaling=LLAMA3),
        "llama-3.2": raw_config(
            **LLAMA,
            rope_theta=5e5,
            rope_scaling=LLAMA3 | {"factor": 32.0},
            tie_word_embeddings=True,
        ),
        "smollm2": raw_config(
            **LLAMA,
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=1,
            rope_theta=1e5,
            rope_interleaved=False,
            tie_word_embeddings=True,
        ),
        "tinyllama": raw_config(**LLAMA, num_attention_heads=8, num_key_value_heads=1, head_dim=8),
        "qwen2": raw_config(**QWEN2),
        "qwen2.5": raw_config(**QWEN2, tie_word_embeddings=True, num_key_value_heads=1),
        "qwen2.5-window": raw_config(**QWEN2 | {"use_sliding_window": True}),
    }


def special_cases() -> dict[str, dict]:
    """What the grid does not vary: families, and a large epsilon."""
    return families() | {"large-epsilon": raw_config(rms_norm_eps=0.1)}


def spoken_cases() -> dict[str, dict]:
    """On which loops that decode are tried; first those whose layers differ, or have biases."""
    return {n: families()[n] for n in ("qwen2.5-window", "ministral", "llama-3.1")} | covering_set()
