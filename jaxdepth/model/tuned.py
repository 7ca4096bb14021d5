"""A tuned model: its base, and what was trained: low-rank factors, or weights themselves.

`params` is a flat dict of float32 arrays, for n layers and N new tokens:

    layers.q.a (n, I, R), layers.q.b (n, R, O) ...   low-rank factors
    layers.q (n, I, O), ..., embed, norm, head       or weights
    embed_rows (N, D), head_rows (N, D)              rows of tokens that the base does not have

Source of the low-rank form: Hu et al. 2021 (arXiv:2106.09685). A begins at random and B at zero, so
an untrained adapter changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdepth.errors import InputError, at_least, listed, nearest
from jaxdepth.model.mistral import LowRank, Mistral
from jaxdepth.model.parameters import LAYER_PARAMETERS, MATRICES, TOP_PARAMETERS, parameter_shapes

Params = dict[str, Float[Array, "..."]]


@dataclass(frozen=True)
class Form:
    """Which weights are trained, and in what form."""

    layers: tuple[int, ...]  # counted from 0
    leaves: tuple[str, ...] = MATRICES  # names from `model.leaves`
    rank: int | None = 8  # of the factors; None trains the weights themselves
    alpha: float = 16.0  # the product of the factors is multiplied by alpha / rank
    first_new: int | None = None  # the id of the first new token, if there are any

    def __post_init__(self):
        at_least(1, rank=self.rank)
        if not self.layers or not self.leaves:
            raise InputError("nothing to train: name at least one layer and one matrix")
        known = MATRICES if self.rank else (*LAYER_PARAMETERS, *TOP_PARAMETERS)
        for name in self.leaves:
            if name not in known:
                raise InputError(
                    f"{name!r} cannot be trained{nearest(name, known)}; expected one of "
                    f"{listed(known, 12)}"
                )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def keys(self, tied: bool) -> set[str]:
        """The names that `params` has, for a model with a head of its own or without."""
        ends = (".a", ".b") if self.rank else ("",)
        found = {f"{_key(leaf)}{end}" for leaf in self.leaves for end in ends}
        if self.first_new is not None:
            found |= {"embed_rows"} if tied else {"embed_rows", "head_rows"}
        return found


def init_params(model: Mistral, form: Form, new_tokens: int, key: jax.Array) -> Params:
    """What training begins with: a model that does what its base does.

    Args:
        model: the base.
        form: what is trained.
        new_tokens: how many tokens the vocabulary grows by; their rows begin as the mean row.
        key: of the factors' draws.
    """
    params, shapes, picks = {}, parameter_shapes(model.config), jnp.array(form.layers)
    for name, one in zip(form.leaves, jax.random.split(key, len(form.leaves)), strict=True):
        if form.rank is None:
            base = _array(model, name)
            params[_key(name)] = (base[picks] if name in LAYER_PARAMETERS else base).astype(
                jnp.float32
            )
            continue
        _, inputs, outputs = shapes[_key(name)]
        a = jax.random.normal(one, (len(picks), inputs, form.rank), jnp.float32) * inputs**-0.5
        params[f"{_key(name)}.a"] = a
        params[f"{_key(name)}.b"] = jnp.zeros((len(picks), form.rank, outputs), jnp.float32)
    if new_tokens:
        for name, table_VD in _tables(model).items():
            mean_D = jnp.mean(table_VD.astype(jnp.float32), axis=0)
            params[f"{name}_rows"] = jnp.tile(mean_D, (new_tokens, 1))
    return params


def attach(model: Mistral, params: Mapping[str, Array], form: Form) -> Mistral:
    """The tuned model with low-rank factors kept apart, which is what training differentiates."""
    picks = jnp.array(form.layers)

    def apart(base: Array, a: Array, b: Array) -> LowRank:
        return LowRank(base, _spread(a, base, picks), _spread(b, base, picks))

    return _tuned(model, params, form, apart)


def merge(model: Mistral, params: Mapping[str, Array], form: Form) -> Mistral:
    """The tuned model with plain matrices, which is what is run and exported."""
    picks = jnp.array(form.layers)

    def added(base: Array, a: Array, b: Array) -> nnx.Param:
        product = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        merged = (base[picks].astype(jnp.float32) + product).astype(base.dtype)
        return nnx.Param(base.at[picks].set(merged))

    return _tuned(model, params, form, added)


def _tuned(model: Mistral, params: Mapping[str, Array], form: Form, with_factors) -> Mistral:
    """The model with what was trained; `with_factors` makes a leaf of a base and its factors."""
    tuned = jax.tree.map(lambda array: array, model)  # modules of its own, the same arrays
    for name in form.leaves:
        base, key = _array(model, name), _key(name)
        if form.rank is not None:
            leaf = with_factors(base, params[f"{key}.a"], params[f"{key}.b"] * form.scale)
        elif name in LAYER_PARAMETERS:
            picks = jnp.array(form.layers)
            leaf = nnx.Param(base.at[picks].set(params[key].astype(base.dtype)))
        else:
            leaf = nnx.Param(params[name].astype(base.dtype))
        setattr(tuned.layers if name in LAYER_PARAMETERS else tuned, name, leaf)
    return tuned if form.first_new is None else _with_rows(tuned, params, form.first_new)


def _key(name: str) -> str:
    return f"layers.{name}" if name in LAYER_PARAMETERS else name


def _array(model: Mistral, name: str) -> Array:
    leaf = getattr(model.layers if name in LAYER_PARAMETERS else model, name)
    if leaf is None:
        raise InputError(f"this model has no {name!r} of its own to train")
    return jnp.asarray(leaf[...])


def _spread(factor_nXY: Array, base_LIO: Array, picks: Array) -> Array:
    """A factor for every layer, zero for those that are not trained."""
    every = jnp.zeros((base_LIO.shape[0], *factor_nXY.shape[1:]), base_LIO.dtype)
    return every.at[picks].set(factor_nXY.astype(base_LIO.dtype))


def _tables(model: Mistral) -> dict[str, Float[Array, "V D"]]:
    """The arrays that have a row per token."""
    names = ("embed",) if model.head is None else ("embed", "head")
    return {name: _array(model, name) for name in names}


def _with_rows(tuned: Mistral, params: Mapping[str, Array], first: int) -> Mistral:
    for name, table_VD in _tables(tuned).items():
        rows_ND = params[f"{name}_rows"]
        short = max(0, first + len(rows_ND) - len(table_VD))
        table_VD = jnp.pad(table_VD, ((0, short), (0, 0)))
        places = slice(first, first + len(rows_ND))
        setattr(tuned, name, nnx.Param(table_VD.at[places].set(rows_ND.astype(table_VD.dtype))))
    tuned.config = replace(tuned.config, vocab_size=tuned.embed[...].shape[0])
    tuned.layers.config = tuned.config
    return tuned
