"""Grouped-query attention with a causal, optionally sliding, window; softmax in float32."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Float32 matmuls keep full precision on every backend; bfloat16 ones are not affected.
HIGHEST = jax.lax.Precision.HIGHEST

# Below every score, and finite: what differs from it has an exponential.
_LOWEST = float(np.finfo(np.float32).min)

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def compiled_for(platform: str) -> Iterator[None]:
    """Trace programs for a platform that need not be this process's own, such as gpu."""
    before = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(before)


def attend(
    q_BSQH: Float[Array, "B S Q H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    window: int | None,
) -> Float[Array, "B S Q H"]:
    """Causal attention of Q query heads over K key/value heads, each shared by Q / K query heads.

    A query attends to itself and the keys before it, at most `window` in all: as in transformers,
    to keys with `key > query - window`.
    """
    # No mask: cuDNN skips masked blocks only if these two arguments describe the mask.
    return _attend(
        q_BSQH,
        k_BSKH,
        v_BSKH,
        _implementation(q_BSQH.dtype, q_BSQH.shape[-1]),
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
    )


def attend_seen(
    q_BSQH: Float[Array, "B S Q H"],
    k_BUKH: Float[Array, "B U K H"],
    v_BUKH: Float[Array, "B U K H"],
    seen_BSU: Bool[Array, "B S U"],
) -> Float[Array, "B S Q H"]:
    """Attention in which each query sees the keys that a mask names, one at least."""
    return _attend(q_BSQH, k_BUKH, v_BUKH, "xla", mask=seen_BSU[:, None])


def _attend(q_BSQH: Array, k_BSKH: Array, v_BSKH: Array, implementation, **seen) -> Array:
    """Attention by one implementation; `seen` says which keys a query sees, as JAX takes it."""
    dtype = q_BSQH.dtype
    if implementation == "xla" and dtype == jnp.float16:  # not every backend has its matmuls
        q_BSQH, k_BSKH, v_BSKH = (x.astype(jnp.float32) for x in (q_BSQH, k_BSKH, v_BSKH))
    with jax.default_matmul_precision(HIGHEST.name.lower()):
        mixed_BSQH = jax.nn.dot_product_attention(
            q_BSQH, k_BSKH, v_BSKH, implementation=implementation, **seen
        )
    return mixed_BSQH.astype(dtype)


def _implementation(dtype: jnp.dtype, head_dim: int) -> Literal["cudnn", "xla"]:
    """cuDNN's fused attention where it applies: on GPUs, in 16 bits, for some head sizes."""
    fits = jnp.dtype(dtype).itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
    return "cudnn" if fits and (_PLATFORM.get() or default_platform()) == "gpu" else "xla"


def default_platform() -> str:
    """The platform of the default device, such as that of `with jax.default_device(cpu)`."""
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined, unused-ignore]
    if chosen is None:
        return jax.default_backend()
    return chosen if isinstance(chosen, str) else chosen.platform


class Part(NamedTuple):
    """Attention over some of the keys, not yet normalised, in float32."""

    mixed: Float[Array, "*batch rows H"]  # sum of exp(score - peak) * value
    total: Float[Array, "*batch rows"]  # sum of exp(score - peak)
    peak: Float[Array, "*batch rows"]  # the largest score; `_LOWEST` where no key is seen


def attend_part(
    q: Float[Array, "*batch rows H"],
    k: Float[Array, "*batch S H"],
    v: Float[Array, "*batch S H"],
    seen: Bool[Array, "..."],
) -> Part:
    """Attention of query rows over one part of their keys.

    `seen` masks the keys that a row attends to; it is broadcast to (*batch, rows, S).
    """
    scores = jnp.einsum(
        "...rh,...sh->...rs", q, k, precision=HIGHEST, preferred_element_type=jnp.float32
    )
    scores = jnp.where(seen, scores * q.shape[-1] ** -0.5, -jnp.inf)
    peak = jnp.max(scores, axis=-1, initial=_LOWEST)
    weights = jnp.exp(scores - peak[..., None])
    mixed = jnp.einsum(
        "...rs,...sh->...rh",
        weights.astype(v.dtype),
        v,
        precision=HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return Part(mixed, jnp.sum(weights, axis=-1), peak)


def empty_part(like: Part) -> Part:
    """Attention over no key, in the shape of another part."""
    zeros = Part(*map(jnp.zeros_like, like))
    return zeros._replace(peak=jnp.full_like(like.peak, _LOWEST))


def join_parts(*parts: Part) -> Part:
    """Attention over the keys of all parts; each key is in one of them.

    Source: the online softmax of Milakov and Gimelshein 2018 (arXiv:1805.02867).
    """
    peak = functools.reduce(jnp.maximum, (p.peak for p in parts))
    shares = [jnp.exp(p.peak - peak) for p in parts]
    mixed = sum(p.mixed * s[..., None] for p, s in zip(parts, shares, strict=True))
    total = sum(p.total * s for p, s in zip(parts, shares, strict=True))
    assert isinstance(mixed, Array)  # `sum` of no parts would be 0
    assert isinstance(total, Array)
    return Part(mixed, total, peak)


def merge_parts(*parts: Part) -> Float[Array, "*batch rows H"]:
    """Attention over all keys from its parts, float32; at least one part of each row sees a key."""
    mixed, total, _ = join_parts(*parts)
    return mixed / total[..., None]
