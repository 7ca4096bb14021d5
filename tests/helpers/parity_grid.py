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
# Keys that a dump of transformers' base class has beside a model's own, at their defaults.
DUMP = {
    "add_cross_attention": False,
    "begin_suppress_tokens": None,
    "cross_attention_hidden_size": None,
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "is_decoder": False,
    "length_penalty": 1.0,
    "max_window_layers": 28,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "output_scores": False,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "return_dict_in_generate": False,
    "suppress_tokens": None,
    "tf_legacy_loss": False,
    "use_bfloat16": False,
    "use_sliding_window": False,
}
QWEN2 = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "use_sliding_window": False,  # so that these two mean nothing
    "sliding_window": 16,
    "max_window_layers": 2,
}


YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,  # with the defaults of texts of 8,192 tokens no tiny pair is between
    "beta_slow": 0.25,
}
QWEN3 = {
    "model_type": "qwen3",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 4,
}
# Queries of 64 positions are multiplied by four values.
MINISTRAL3 = {"model_type": "ministral3", "rope_theta": None, "head_dim": 12} | {
    "rope_parameters": YARN
    | {"type": "yarn", "rope_theta": 1e6, "llama_4_scaling_beta": 0.3, "mscale": 1.0}
    | {"mscale_all_dim": 1.0, "max_position_embeddings": 256}
}
SMOLLM3 = {
    "model_type": "smollm3",
    "rope_theta": 5e6,
    "no_rope_layers": [1, 1, 0, 1],
    "no_rope_layer_interval": 4,
    "layer_types": ["full_attention"] * 4,
    "use_sliding_window": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
VISION = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}


def image_model(tied: bool | None, **text) -> dict:
    """The config of a tiny image model, whose text model is tiny."""
    raw = {
        "model_type": "mistral3",
        "architectures": ["Mistral3ForConditionalGeneration"],
        "text_config": raw_config(**text),
        "vision_config": VISION,
        "image_token_index": 10,
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
    }
    return raw if tied is None else raw | {"tie_word_embeddings": tied}


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
        "mistral-small-3.1": image_model(False, **smaller_heads, rope_theta=1e9),
        "ministral-3": raw_config(**MINISTRAL3, vocab_size=VOCAB + 32),
        "ministral-3-3b": image_model(True, **MINISTRAL3),
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
        "llama-guard-3": raw_config(
            **LLAMA,
            rope_theta=5e5,
            rope_scaling=LLAMA3,
            eos_token_id=[2, 8, 9],
            mlp_bias=False,
            pretraining_tp=1,
        ),
        "llama-guard-3-1b": raw_config(
            **LLAMA,
            rope_theta=5e5,
            rope_scaling=LLAMA3 | {"factor": 32.0},
            num_key_value_heads=1,
            tie_word_embeddings=True,
        ),
        "mistral-judge": raw_config(**DUMP, num_key_value_heads=1, rope_theta=1e4),
        "smollm2": raw_config(
            **LLAMA,
            hidden_size=48,
            num_attention_heads=3,
            num_key_value_heads=1,
            rope_theta=1e5,
            rope_interleaved=False,
            tie_word_embeddings=True,
        ),
        "smollm3": raw_config(**SMOLLM3, tie_word_embeddings=True),
        "tinyllama": raw_config(**LLAMA, num_attention_heads=8, num_key_value_heads=1, head_dim=8),
        "phi-3": raw_config(
            model_type="phi3",
            sliding_window=16,
            original_max_position_embeddings=256,
            pad_token_id=0,
            eos_token_id=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            auto_map={"AutoConfig": "configuration_phi3.Phi3Config"},
        ),
        "qwen2": raw_config(**QWEN2),
        "qwen2.5": raw_config(**QWEN2, tie_word_embeddings=True, num_key_value_heads=1),
        "qwen2.5-window": raw_config(**QWEN2 | {"use_sliding_window": True}),
        "qwen2.5-yarn": raw_config(**QWEN2, rope_scaling=YARN),
        "qwen3": raw_config(**QWEN3, head_dim=24),
        "qwen3guard": raw_config(**QWEN3, head_dim=24, tie_word_embeddings=True),
    }


def special_cases() -> dict[str, dict]:
    """What the grid does not vary: families, and a large epsilon."""
    scaled = {"factor": 4.0, "rope_type": "linear"}, {"factor": 4.0, "rope_type": "dynamic"}
    return families() | {
        "large-epsilon": raw_config(rms_norm_eps=0.1),
        "rope-linear": raw_config(rope_scaling=scaled[0]),
        "rope-dynamic": raw_config(rope_scaling=scaled[1]),
        "yarn-mscale": raw_config(rope_scaling=YARN | {"mscale": 0.7, "mscale_all_dim": 0.3}),
        "yarn-factor": raw_config(rope_scaling=YARN | {"attention_factor": 1.5}),
        "yarn-whole": raw_config(rope_scaling=YARN | {"truncate": False}, head_dim=24),
        "smollm3-window": raw_config(
            **SMOLLM3 | {"use_sliding_window": True, "sliding_window": 16, "layer_types": None}
        ),
        "qwen3-window": raw_config(
            **QWEN3 | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
        ),
    }


def spoken_cases() -> dict[str, dict]:
    """On which loops that decode are tried; first those whose layers or positions differ."""
    first = ("qwen2.5-window", "smollm3-window", "ministral-3", "qwen3-window")
    first += ("ministral", "llama-3.1", "qwen2.5-yarn")
    return {name: special_cases()[name] for name in first} | covering_set()
