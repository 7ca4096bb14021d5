"""Run by test_mesh.py on 8 devices: gradients of every loss on a mesh equal those on one device."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from parity_grid import families
from tiny import model_of

from jaxdepth.depth.layer_scan import Backward
from jaxdepth.model.mistral import on_mesh
from jaxdepth.model.sharding import make_mesh, reshard, state_shardings
from jaxdepth.model.tuned import Form, init_params
from jaxdepth.tune.loss import Targets, Weights
from jaxdepth.tune.train import Micro, State, make_step, preference, supervised

B, S, R = 8, 12, 24
FORMS = {
    "factors": Form(layers=(0, 1, 2, 3), rank=2),
    "weights": Form(
        layers=(1, 3), rank=None, leaves=("q", "k", "k_bias", "down", "mlp_norm", "embed")
    ),
}
LOSSES = {
    "text": supervised(False),
    "distilled": supervised(True, Backward(remat=True)),
    "preferred": preference(0.5, 0.3, False),
}


def micro(rng) -> Micro:
    tokens_BS = rng.integers(0, 96, (B, S)).astype(np.int32)
    sequence_R, place_R = np.repeat(np.arange(B), 3), np.tile([4, 5, 6], B)
    target_R = tokens_BS[sequence_R, place_R + 1]
    text, distill = rng.random((2, 3, R)).astype(np.float32) / R
    weights = Weights(np.array([1, 3, 4], np.int32), text, distill)
    whole = Micro(Targets(tokens_BS, sequence_R, place_R, target_R), weights, None)
    return jax.tree.map(lambda a: np.stack([a, a[::-1] if a.ndim == 2 else a]), whole)


def gradients(base, form: Form, loss_of, mesh) -> dict[str, np.ndarray]:
    """The gradients: the update of plain SGD with a learning rate of 1, negated."""
    plain = on_mesh(base, mesh)
    params = init_params(plain, form, 0, jax.random.key(0))
    if form.rank:  # neither factor zero
        params = {name: array + 0.05 for name, array in params.items()}
    optimizer = optax.sgd(1.0)
    state = State(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    shardings = None if mesh is None else state_shardings(state, base.config, mesh)
    state = state if mesh is None else reshard(state, shardings)
    before = jax.tree.map(np.array, state.params)
    after, _ = make_step(form, loss_of, optimizer, shardings)(
        state, plain, micro(np.random.default_rng(0))
    )
    assert mesh is None or jax.tree.map(lambda a: a.sharding, after) == shardings
    return {name: before[name] - np.asarray(after.params[name]) for name in before}


def main() -> None:
    base = model_of(families()["qwen2.5-window"] | {"sliding_window": 4})
    for names in ("factors text", "factors distilled", "factors preferred", "weights distilled"):
        form, loss_of = (
            kind[name] for kind, name in zip((FORMS, LOSSES), names.split(), strict=True)
        )
        expected = gradients(base, form, loss_of, None)
        for text in sys.argv[1:]:
            sharded = gradients(base, form, loss_of, make_mesh(text))
            for name, gradient in expected.items():
                size = np.linalg.norm(gradient)
                error = np.linalg.norm(sharded[name] - gradient) / size
                assert size > 0, (names, name)
                assert error < 1e-5, (names, text, name, error)


if __name__ == "__main__":
    main()
