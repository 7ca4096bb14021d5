"""A tuned model: its base with trained low-rank factors (LoRA), or with trained weights.

`params` is a flat dict of float32 arrays; `layers` counts those that are trained, and N new tokens:

    layers.q.a (layers, I, rank), layers.q.b (layers, rank, O) ...   low-rank factors
    layers.q (layers, I, O), ..., embed, norm, head                  or weights
    embed_rows (N, D), head_rows (N, D)                              rows of new tokens
    lens.a (exits, D, rank), lens.b, lens.norm, lens.bias            a lens (`model.lens`)

Source of the low-rank form: Hu et al. 2021 (arXiv:2106.09685). A begins at random and B at zero, so
an untrained adapter changes nothing; nor does an untrained lens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdepth.errors import InputError, at_least, listed, nearest
from jaxdepth.model.lens import Lens
from jaxdepth.model.mistral import LowRank, Mistral
from jaxdepth.model.parameters import LAYER_PARAMETERS, MATRICES, TOP_PARAMETERS, parameter_shapes

Params = dict[str, Float[Array, "..."]]
LENS = ("lens.norm", "lens.a", "lens.b", "lens.bias")


@dataclass(frozen=True)
class Form:
    """Which parameters are trained, and in what form. Adapter files contain these fields."""

    layers: tuple[int, ...]  # counted from 0
    leaves: tuple[str, ...] = MATRICES  # trained parameters, by their names in `PARAMETERS`
    rank: int | None = 8  # of the factors; None trains the weights themselves
    alpha: float = 16.0  # the product of the factors is scaled by alpha / rank
    first_new: int | None = None  # the id of the first new token, if there are any
    lens_exits: tuple[int, ...] = ()  # the exits that have a lens
    lens_rank: int = 0

    def __post_init__(self):
        at_least(1, rank=self.rank)
        if self.lens_exits:
            at_least(1, lens_rank=self.lens_rank)
        elif not self.layers or not self.leaves:
            raise InputError("nothing to train: name at least one layer and one matrix")
        trainable = MATRICES if self.rank else (*LAYER_PARAMETERS, *TOP_PARAMETERS)
        for name in self.leaves:
            if name not in trainable:
                raise InputError(
                    f"{name!r} cannot be trained{nearest(name, trainable)}; expected one of "
                    f"{listed(trainable, 12)}"
                )

    @property
    def scale(self) -> float:
        """The factor of the product of low-rank factors."""
        assert self.rank is not None, "weights that are trained themselves have no scale"
        return self.alpha / self.rank

    @property
    def frozen(self) -> int:
        """How many of the first layers, and what they read, have nothing that is trained."""
        reads_trained = self.first_new is not None or "embed" in self.leaves
        return min(self.layers, default=0) if not reads_trained else 0

    def keys(self, tied: bool) -> set[str]:
        """The names that `params` has, for a model with a tied head or without."""
        ends = (".a", ".b") if self.rank else ("",)
        names = {f"{_key(name)}{end}" for name in self.leaves for end in ends}
        if self.lens_exits:
            names |= set(LENS)
        if self.first_new is not None:
            names |= {"embed_rows"} if tied else {"embed_rows", "head_rows"}
        return names


def init_params(model: Mistral, form: Form, new_tokens: int, key: jax.Array) -> Params:
    """Initial parameters: the tuned model computes what its base does.

    Args:
        model: the base.
        form: what is trained.
        new_tokens: how many tokens are added to the vocabulary; their rows begin as the mean row.
        key: a random key for the factors A.
    """
    params, shapes, layers = {}, parameter_shapes(model.config), jnp.array(form.layers)
    for name, factor_key in zip(form.leaves, jax.random.split(key, len(form.leaves)), strict=True):
        if form.rank is None:
            base = _array(model, name)
            params[_key(name)] = (base[layers] if name in LAYER_PARAMETERS else base).astype(
                jnp.float32
            )
            continue
        _, inputs, outputs = shapes[_key(name)]
        a = (
            jax.random.normal(factor_key, (len(layers), inputs, form.rank), jnp.float32)
            * inputs**-0.5
        )
        params[f"{_key(name)}.a"] = a
        params[f"{_key(name)}.b"] = jnp.zeros((len(layers), form.rank, outputs), jnp.float32)
    if form.lens_exits:
        params |= _begun_lens(model, form, key)
    if new_tokens:
        for name, table_VD in _tables(model).items():
            mean_D = jnp.mean(table_VD.astype(jnp.float32), axis=0)
            params[f"{name}_rows"] = jnp.tile(mean_D, (new_tokens, 1))
    return params


def attach(model: Mistral, params: Mapping[str, Array], form: Form) -> Mistral:
    """The tuned model with low-rank factors kept apart, which is what training differentiates."""
    layers = jnp.array(form.layers)

    def keep_apart(base: Array, a: Array, b: Array) -> LowRank:
        return LowRank(base, _scatter_layers(a, base, layers), _scatter_layers(b, base, layers))

    return _tuned(model, params, form, keep_apart)


def merge(model: Mistral, params: Mapping[str, Array], form: Form) -> Mistral:
    """The tuned model with plain matrices, which is what is run and exported."""
    layers = jnp.array(form.layers)

    def add(base: Array, a: Array, b: Array) -> nnx.Param:
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        merged = (base[layers].astype(jnp.float32) + product).astype(base.dtype)
        return nnx.Param(base.at[layers].set(merged))

    return _tuned(model, params, form, add)


def _tuned(
    model: Mistral,
    params: Mapping[str, Array],
    form: Form,
    with_factors: Callable[[Array, Array, Array], nnx.Param | LowRank],
) -> Mistral:
    """The model with trained parameters; `with_factors` combines a matrix with its factors."""
    if model.is_apart:
        raise InputError("the layers of the base are apart: load it with apart=False to tune it")
    tuned = jax.tree.map(lambda array: array, model)  # new modules, the same arrays
    for name in form.leaves:
        base, key = _array(model, name), _key(name)
        if form.rank is not None:
            parameter = with_factors(base, params[f"{key}.a"], params[f"{key}.b"] * form.scale)
        elif name in LAYER_PARAMETERS:
            layers = jnp.array(form.layers)
            parameter = nnx.Param(base.at[layers].set(params[key].astype(base.dtype)))
        else:
            parameter = nnx.Param(params[name].astype(base.dtype))
        setattr(tuned.layers if name in LAYER_PARAMETERS else tuned, name, parameter)
    if form.lens_exits:
        tuned.lens = Lens(params, form.lens_exits, tuned.depth)
    return tuned if form.first_new is None else _with_new_tokens(tuned, params, form.first_new)


def _begun_lens(model: Mistral, form: Form, key: jax.Array) -> Params:
    """A lens that reads every exit as the head alone does."""
    E, D = len(form.lens_exits), model.config.hidden_size
    a = jax.random.normal(key, (E, D, form.lens_rank), jnp.float32) * D**-0.5
    zeros = jnp.zeros((E, form.lens_rank, D))
    begun = jnp.ones((E, D)), a, zeros, jnp.zeros((E, D))
    return dict(zip(LENS, begun, strict=True))


def lens_shape(name: str, form: Form, D: int) -> tuple[int, ...]:
    """The shape of one of the arrays of a lens."""
    E, rank = len(form.lens_exits), form.lens_rank
    return {"lens.a": (E, D, rank), "lens.b": (E, rank, D)}.get(name, (E, D))


def _key(name: str) -> str:
    return f"layers.{name}" if name in LAYER_PARAMETERS else name


def _array(model: Mistral, name: str) -> Array:
    parameter = getattr(model.layers if name in LAYER_PARAMETERS else model, name)
    if parameter is None:
        raise InputError(f"this model has no {name!r} of its own to train")
    return jnp.asarray(parameter[...])


def _scatter_layers(factors: Array, base_LIO: Array, layers: Array) -> Array:
    """Factors of all L layers, zero for those that are not trained."""
    zeros = jnp.zeros((base_LIO.shape[0], *factors.shape[1:]), base_LIO.dtype)
    return zeros.at[layers].set(factors.astype(base_LIO.dtype))


def _tables(model: Mistral) -> dict[str, Float[Array, "V D"]]:
    """The arrays that have a row per token."""
    names = ("embed",) if model.head is None else ("embed", "head")
    return {name: _array(model, name) for name in names}


def _with_new_tokens(tuned: Mistral, params: Mapping[str, Array], first: int) -> Mistral:
    for name, table_VD in _tables(tuned).items():
        rows_ND = params[f"{name}_rows"]
        missing = max(0, first + len(rows_ND) - len(table_VD))
        table_VD = jnp.pad(table_VD, ((0, missing), (0, 0)))
        ids = slice(first, first + len(rows_ND))
        setattr(tuned, name, nnx.Param(table_VD.at[ids].set(rows_ND.astype(table_VD.dtype))))
    tuned.config = replace(tuned.config, vocab_size=tuned.embed[...].shape[0])
    tuned.layers.config = tuned.config
    return tuned
