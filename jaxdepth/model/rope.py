"""Rotary position embedding, in float32 whatever the model's dtype.

Source: Su et al. 2021 (arXiv:2104.09864); halves rotated as in transformers' `rotate_half`.
Scaled frequencies: transformers `modeling_rope_utils.py`; scaled queries: its `ministral3`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.model.rope_config import (
    LinearScaling,
    Llama3Scaling,
    QueryScaling,
    RopeConfig,
    YarnScaling,
)


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Radians per position of each rotated pair, float32 (H / 2,)."""
    freq = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    freq = freq.astype(np.float32)
    match rope.scaling:
        case LinearScaling(factor):
            return freq / np.float32(factor)
        case Llama3Scaling() as scaling:
            # Fast pairs stay, slow pairs are slowed by `factor`, those between are interpolated.
            rotations = scaling.original_max_position_embeddings * freq / (2 * np.pi)
            kept = (rotations - scaling.low_freq_factor) / (
                scaling.high_freq_factor - scaling.low_freq_factor
            )
            kept = np.clip(kept, 0.0, 1.0)
        case YarnScaling() as scaling:
            kept = _kept_by_yarn(scaling, rope.theta, head_dim)
        case None:
            return freq
    return ((1 - kept) * freq / scaling.factor + kept * freq).astype(np.float32)


def _kept_by_yarn(scaling: YarnScaling, theta: float, head_dim: int) -> np.ndarray:
    """How much of its frequency each pair keeps, 1 for the fast ones and 0 for the slow ones."""

    def pair(turns: float) -> float:
        """The pair, as a fraction of them, that turns so often in the original length."""
        period = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(period) / (2 * math.log(theta))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - first) / (last - first)
    return 1 - np.clip(ramp, 0, 1).astype(np.float32)


def rope_table(
    rope: RopeConfig, head_dim: int, positions: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch H"], Float[Array, "*batch H"]]:
    """Cosines and sines of every position, float32; both halves of H hold the same values."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(rope, head_dim)
    angles = jnp.concatenate([angles, angles], axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if isinstance(rope.scaling, YarnScaling) and rope.scaling.attention_factor != 1:
        return cos * rope.scaling.attention_factor, sin * rope.scaling.attention_factor
    return cos, sin


def query_scale(scaling: QueryScaling, positions: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """What queries are multiplied by after RoPE at every position, float32."""
    length = min(scaling.original_max_position_embeddings, np.iinfo(np.int32).max)
    steps = positions // length
    return 1 + scaling.beta * jnp.log1p(steps.astype(jnp.float32))


def rotate(
    x: Float[Array, "*batch heads H"],
    cos: Float[Array, "*#batch H"],
    sin: Float[Array, "*#batch H"],
) -> Float[Array, "*batch heads H"]:
    """Rotate queries or keys by their positions; the dtype of `x` is kept."""
    x32 = x.astype(jnp.float32)
    low, high = jnp.split(x32, 2, axis=-1)
    rotated = jnp.concatenate([-high, low], axis=-1)
    return (x32 * cos[..., None, :] + rotated * sin[..., None, :]).astype(x.dtype)
