"""Rotary position embedding, in float32 whatever the model's dtype.

Source: Su et al. 2021 (arXiv:2104.09864); halves rotated as in transformers' `rotate_half`.
Scaling of Llama 3.1: transformers `modeling_rope_utils.py`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdepth.model.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Radians per position of each rotated pair, float32 (H / 2,)."""
    freq = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    freq = freq.astype(np.float32)
    scaling = rope.scaling
    if scaling is None:
        return freq
    # Fast pairs stay, slow pairs are slowed by `factor`, those between are interpolated.
    rotations = scaling.original_max_position_embeddings * freq / (2 * np.pi)
    blend = (rotations - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blend = np.clip(blend, 0.0, 1.0)
    return ((1 - blend) * freq / scaling.factor + blend * freq).astype(np.float32)


def rope_table(
    rope: RopeConfig, head_dim: int, positions: Int[Array, "*batch"]
) -> tuple[Float[Array, "*batch H"], Float[Array, "*batch H"]]:
    """Cosines and sines of every position, float32; both halves of H hold the same values."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(rope, head_dim)
    angles = jnp.concatenate([angles, angles], axis=-1)
    return jnp.cos(angles), jnp.sin(angles)


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
