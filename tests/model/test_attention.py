"""Which attention is compiled: cuDNN's on GPUs alone."""

import jax
import jax.numpy as jnp

from jaxdepth.model import attention


def chosen(dtype=jnp.bfloat16) -> str:
    return attention._implementation(jnp.dtype(dtype), 64)


def test_fused_attention_is_for_the_device_that_is_computed_on(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen() == "cudnn"
    assert chosen(jnp.float32) == "xla"
    for device in (jax.devices("cpu")[0], "cpu"):
        with jax.default_device(device):
            assert chosen() == "xla", "a machine with a GPU that computes on its CPU"
            with attention.compiled_for("gpu"):
                assert chosen() == "cudnn"
