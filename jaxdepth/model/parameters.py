"""The declaration of every parameter: its name and its axes.

Conversion, loading, sharding and training all read this table. Matrices of the layers have
their inputs first: a CPU multiplies the few rows of a decoding step faster by them than by the
outputs-first ones of Hugging Face's files, which checkpoints keep.
"""

from collections.abc import Sequence
from itertools import accumulate

from jaxdepth.model.config import ModelConfig

TOP_PARAMETERS = {"embed": "VD", "norm": "D", "head": "VD"}  # head: absent when tied to embed
LAYER_PARAMETERS = {
    "attn_norm": "D",
    "q": "DA",
    "k": "DC",
    "v": "DC",
    "q_bias": "A",  # biases: absent unless the config has them
    "k_bias": "C",
    "v_bias": "C",
    "q_norm": "H",  # norms of a head: absent unless the config has them
    "k_norm": "H",
    "o": "AD",
    "mlp_norm": "D",
    "gate": "DF",
    "up": "DF",
    "down": "FD",
}
MATRICES = tuple(name for name, axes in LAYER_PARAMETERS.items() if len(axes) == 2)  # of a layer
PARAMETERS = TOP_PARAMETERS | LAYER_PARAMETERS


def axis_sizes(config: ModelConfig) -> dict[str, int]:
    """The size of each axis letter."""
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "L": config.num_hidden_layers,
        "A": config.num_attention_heads * config.head_dim,
        "C": config.num_key_value_heads * config.head_dim,
        "H": config.head_dim,
    }


def split_points(matrices: Sequence[str], config: ModelConfig) -> list[int]:
    """Where the outputs of all but the first begin, for matrices of a layer that stand in one."""
    size = axis_sizes(config)
    return list(accumulate(size[LAYER_PARAMETERS[name][-1]] for name in matrices[:-1]))


def has_parameter(name: str, config: ModelConfig) -> bool:
    """Whether a model of this config has the parameter: some tie the head, most have no biases."""
    if name == "head":
        return not config.tie_word_embeddings
    if name in ("q_norm", "k_norm"):
        return config.qk_norm
    return config.qkv_bias or not name.endswith("_bias")


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of a model and its shape; those of layers have a leading L axis."""
    size = axis_sizes(config)
    top = {n: axes for n, axes in TOP_PARAMETERS.items() if has_parameter(n, config)}
    layers = {
        f"layers.{n}": "L" + axes
        for n, axes in LAYER_PARAMETERS.items()
        if has_parameter(n, config)
    }
    return {name: tuple(size[a] for a in axes) for name, axes in (top | layers).items()}
