"""The rate of one large matrix product, and of a copy: what this card reaches at best."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from gpu_parts.shapes import Check, row, seconds_of

MATRIX, COPY = "matrix products, FLOP/s", "copy, bytes/s"
REPEATS = 8


def measure(check: Check) -> Iterator[dict]:
    """A row each."""
    device = jax.devices()[0]
    yield row("device", f"{device.device_kind}, jax {jax.__version__}")
    n = 256 if check.toy else 8192
    a, b = (jax.random.normal(jax.random.key(k), (n, n), jnp.bfloat16) for k in (0, 1))

    @jax.jit
    def multiply(a, b):
        scale = jnp.bfloat16(1 / n**0.5)  # so that the product of products does not overflow
        return jax.lax.fori_loop(0, REPEATS, lambda _, x: (x @ b) * scale, a)

    rate = 2 * n**3 * REPEATS / seconds_of(lambda: multiply(a, b), rounds=5)
    yield row(MATRIX, f"{rate / 1e12:.4g} TFLOP/s (bfloat16, {n}^3)", rate)
    x = jnp.ones((1 << (20 if check.toy else 30),), jnp.float32)
    add = jax.jit(lambda x: x + 1)
    rate = 2 * x.nbytes / seconds_of(lambda: add(x), rounds=5)
    yield row(COPY, f"{rate / 1e9:.4g} GB/s ({x.nbytes / 1e9:.3g} GB)", rate)
