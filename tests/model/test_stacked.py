"""Matrices that a CPU copies out of their stack one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import raw_config

from jaxdepth.cpu.lazy_slice import LazySlice, delay_until
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.int8 import to_int8
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import MATRICES, parameter_shapes

L, D, F = 4, 128, 512


def wide_config() -> ModelConfig:
    return ModelConfig.from_hf(
        raw_config(
            num_hidden_layers=L, hidden_size=D, intermediate_size=F, vocab_size=32, head_dim=32,
            num_attention_heads=4, num_key_value_heads=2,
        )
    )  # fmt: skip


def test_a_number_stays_what_it_is():
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**31), 2**31, 10_000).astype(np.int32).view(np.float32)
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45], np.float32)
    values = jnp.asarray(np.concatenate([values, special]))
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        actual = jax.jit(jax.vmap(delay_until, in_axes=(None, 0)))(7, values.astype(dtype))
        assert (actual == 7).all()


@pytest.mark.parametrize("form", ["plain", "int8"])
def test_a_matrix_is_the_one_of_its_layer(form):
    stack = jax.random.normal(jax.random.key(0), (L, D, F))
    if form == "int8":
        stack = to_int8(stack)
    for number in range(L):
        x = jnp.full((3, D), jnp.nan)
        actual = jax.jit(lambda i, x: LazySlice(stack, i).slice_for(x))(number, x)
        expected = jax.tree.map(lambda array, number=number: array[number], stack)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_layer_holds_two_matrices_at_a_time():
    """Those of gate and up, which the same is multiplied by, of seven."""
    shapes = parameter_shapes(wide_config()).items()
    model = Mistral(wide_config(), {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes})

    def run(model, h_BD):
        def layer(h_BD, i):
            block = model.layer(i)
            q, k, v = block.project(h_BD, *model.rope_at(jnp.zeros(1, int)))
            return block.finish(h_BD, q + 0 * (k + v).sum()), None

        return jax.lax.scan(layer, h_BD, jnp.arange(L))[0]

    compiled = jax.jit(run).lower(model, jax.ShapeDtypeStruct((8, D), jnp.float32)).compile()
    held = compiled.memory_analysis().temp_size_in_bytes
    all_of_a_layer = sum(4 * np.prod(s[1:]) for n, s in shapes if n.split(".")[-1] in MATRICES)
    assert 2 * 4 * D * F <= held < 2 * 4 * D * F * 1.2 < all_of_a_layer
