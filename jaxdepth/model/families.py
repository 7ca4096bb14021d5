"""What each model family changes: one table, which the config, the block and the converters read.

Source: the configuration and modeling files of transformers, 4.57 and 5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SWITCH = ("use_sliding_window", "max_window_layers")
_NOPE = ("no_rope_layers", "no_rope_layer_interval")


@dataclass(frozen=True)
class Family:
    """What absent keys of a family's `config.json` mean, and what its block does differently."""

    kv_heads: int | None  # key/value heads; None: as many as query heads
    max_positions: int
    window: int | None = None  # the sliding window
    head_dim: int | None = None  # None: the width divided by the query heads
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope: Mapping[str, Any] | None = None  # its `rope_parameters` where no key describes RoPE
    ties_head: bool = False  # the head is the embedding
    keys: tuple[str, ...] = ()  # what its config has beyond those of all families
    qkv_bias: bool = False  # queries, keys and values are projected with a bias
    qk_norm: bool = False  # every head of queries and keys is normalised before RoPE
    scales_queries: bool = False  # `llama_4_scaling_beta` is read
    layer_types_count: bool = True  # `layer_types` is read, not implied by `sliding_window`


FAMILIES = {
    "mistral": Family(8, 131072, window=4096, layer_types_count=False),
    "ministral": Family(8, 131072, window=4096),
    "ministral3": Family(
        8,
        262144,
        head_dim=128,
        rms_norm_eps=1e-5,
        rope={
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 16.0,
            "original_max_position_embeddings": 16384,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
        scales_queries=True,
        layer_types_count=False,
    ),
    "llama": Family(None, 2048, layer_types_count=False),
    "qwen2": Family(32, 32768, window=4096, keys=_SWITCH, qkv_bias=True),
    "qwen3": Family(32, 32768, window=4096, head_dim=128, keys=_SWITCH, qk_norm=True),
    "smollm3": Family(4, 32768, rope_theta=2e6, ties_head=True, keys=(*_SWITCH, *_NOPE)),
}

# Image models whose text model is read: the key of its config is `text_config`, and the text model
# that an absent `model_type` means there.
WRAPPERS = {"mistral3": "mistral"}

# Families that are Mistral's block with matrices fused in the files: what their absent keys mean.
FUSED = {
    "phi3": {
        "num_key_value_heads": None,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
    }
}

# Families that are often requested, and why the block would not stay simple with them.
WHY_NOT = {
    "gemma": "it scales the embedding, and norms by 1 + weight",
    "gemma2": "it caps its logits softly and norms every layer four times",
    "gemma3": "it norms every layer four times, and has two RoPE bases",
    "gemma3_text": "it norms every layer four times, and has two RoPE bases",
    "llama4": "it routes tokens to experts",
    "mistral4": "it routes tokens to experts, and its keys and values are compressed (MLA)",
    "mixtral": "it routes tokens to experts",
    "olmo2": "it norms what attention and MLP return, not what they take",
    "qwen3_moe": "it routes tokens to experts",
}
