"""Mistral, Llama, Qwen and SmolLM in Flax: nnx modules used as plain pytrees.

`Mistral.layers` is one `Block` whose arrays carry a leading L axis, or whose matrices are `Apart`;
`jaxdepth.depth.over_layers` runs either. Nothing here knows how many layers will be run.

Source of the block: Jiang et al. 2023 (arXiv:2310.06825); numbers follow transformers'
`models/mistral/modeling_mistral.py`, and of the families in `jaxdepth.model.families` where those
differ.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from jaxdepth.cpu.lazy_slice import LazySlice, slice_layer
from jaxdepth.errors import InputError, listed
from jaxdepth.model import AnyArray
from jaxdepth.model.apart import JOINED, Apart, place_apart
from jaxdepth.model.attention import HIGHEST, Part, attend, merge_parts
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.int8 import Int8
from jaxdepth.model.lens import Lens
from jaxdepth.model.parameters import (
    LAYER_PARAMETERS,
    MATRICES,
    has_parameter,
    parameter_shapes,
    split_points,
)
from jaxdepth.model.rope import query_scale, rope_table, rotate
from jaxdepth.model.sharding import constrain, parameter_sharding

# A parameter; its shape alone where a program is only compiled.
Weight = AnyArray | jax.ShapeDtypeStruct | Int8 | Apart
_ALL = np.iinfo(np.int32).max  # a window that contains every key


def rms_norm(
    x: Float[Array, "*batch D"], scale_D: Float[Array, " D"], epsilon: float
) -> Float[Array, "*batch D"]:
    """Root-mean-square norm in float32; the dtype of `x` is kept."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + epsilon)
    return scale_D * x32.astype(x.dtype)


class LowRank(nnx.Module):
    """A matrix W with a low-rank update A B kept apart from it: x (W + A B).

    Source: Hu et al. 2021 (arXiv:2106.09685); the scale alpha / rank is already in B.
    """

    def __init__(self, weight: Array, a: Array, b: Array):
        self.weight = nnx.Param(weight)
        self.a = nnx.Param(a)
        self.b = nnx.Param(b)


Matrix = nnx.Param | LowRank | Int8 | LazySlice | Apart  # what a matrix of a layer may be


def _matmul(x: Float[Array, "*batch I"], matrix: Matrix) -> Float[Array, "*batch O"]:
    if isinstance(matrix, LazySlice):
        return _matmul(x, matrix.slice_for(x))
    if isinstance(matrix, Int8):
        return matrix.matmul(x)
    if isinstance(matrix, LowRank):
        return _matmul(x, matrix.weight) + _matmul(_matmul(x, matrix.a), matrix.b)
    return jnp.matmul(x, matrix[...], precision=HIGHEST)


class Rotation(NamedTuple):
    """What `Block.project` does to queries and keys at some positions, float32."""

    cos: Float[Array, "*batch H"]
    sin: Float[Array, "*batch H"]
    q_scale: Float[Array, "*batch"] | None  # of queries, after RoPE


class Steering(nnx.Module):
    """A change of the residual stream along a unit axis: h + (shift + gain (h . axis)) axis.

    Directional ablation and activation addition both have this form, so one program serves both.
    """

    def __init__(
        self, axis: Float[Array, "*L D"], gain: Float[Array, "*L"], shift: Float[Array, "*L"]
    ):
        self.axis = nnx.Param(axis)
        self.gain = nnx.Param(gain)
        self.shift = nnx.Param(shift)

    def __call__(self, h: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """The changed residual stream: computed in float32, returned in the dtype of `h`."""
        h32, axis_D = h.astype(jnp.float32), self.axis[...]
        along = jnp.sum(h32 * axis_D, axis=-1, keepdims=True)
        return (h32 + (self.shift[...] + self.gain[...] * along) * axis_D).astype(h.dtype)


def _of_layer(flag: nnx.Variable | None) -> Bool[AnyArray, ""]:
    """A flag in which layers differ, of one layer."""
    if flag is None:
        raise ValueError("layers of this model differ: take them from `Mistral.blocks`")
    return flag[...]


class Block(nnx.Module):
    """The weights of one layer, or of all of them stacked on a leading L axis."""

    attn_norm: nnx.Param
    mlp_norm: nnx.Param
    q: Matrix | None
    k: Matrix | None
    v: Matrix | None
    o: Matrix
    gate: Matrix | None
    up: Matrix | None
    down: Matrix
    # In place of those above that they join, where layers are apart.
    qkv: Matrix | None = None
    gate_up: Matrix | None = None
    # Class attributes are what most models have: `steer` sets `steering`, and where layers differ
    # `Mistral.blocks` sets whether this layer has the sliding window, and RoPE.
    steering: Steering | None = None
    slides: nnx.Variable | None = None
    rotates: nnx.Variable | None = None
    q_bias: nnx.Param | None = None
    k_bias: nnx.Param | None = None
    v_bias: nnx.Param | None = None
    q_norm: nnx.Param | None = None
    k_norm: nnx.Param | None = None
    is_apart: bool = False  # whether its matrices were never in a stack

    def __init__(self, config: ModelConfig, arrays: Mapping[str, Weight]):
        self.config = config
        for name in LAYER_PARAMETERS:
            if has_parameter(name, config):
                array = arrays[f"layers.{name}"]
                is_module = isinstance(array, Int8 | Apart)
                setattr(self, name, array if is_module else nnx.Param(array))

    @property
    def window(self) -> int | Int[Array, ""] | None:
        """How many keys a query sees, its own included (None: all); traced where layers differ."""
        window = self.config.sliding_window
        if self.config.sliding_layers is None or window is None:
            return window
        return jnp.where(_of_layer(self.slides), window, _ALL)

    def project(
        self,
        h: Float[Array, "*batch D"],
        cos: Float[Array, "*#batch H"],
        sin: Float[Array, "*#batch H"],
        q_scale: Float[Array, "*#batch"] | None = None,
    ) -> tuple[Float[Array, "*batch Q H"], Float[Array, "*batch K H"], Float[Array, "*batch K H"]]:
        """Queries, keys and values of the residual stream; queries and keys are rotated.

        The last arguments are what `Mistral.rope_at` returns for the positions of `h`.
        """
        epsilon = self.config.rms_norm_eps
        x = rms_norm(h, self.attn_norm[...], epsilon)

        def heads(flat, bias):
            flat = flat if bias is None else flat + bias[...]
            # The barrier keeps the split into heads out of the matmul: a TPU would store a second
            # copy of all weights for it, in another layout. A GPU would copy each part for it.
            flat = flat if self.is_apart else jax.lax.optimization_barrier(flat)
            return flat.reshape(*x.shape[:-1], -1, self.config.head_dim)

        biases = self.q_bias, self.k_bias, self.v_bias
        q, k, v = map(heads, self._products(x, "qkv"), biases)
        if self.q_norm is not None and self.k_norm is not None:
            q = rms_norm(q, self.q_norm[...], epsilon)
            k = rms_norm(k, self.k_norm[...], epsilon)
        if self.config.rope_layers is not None:
            rotates = _of_layer(self.rotates)
            cos, sin = jnp.where(rotates, cos, 1.0), jnp.where(rotates, sin, 0.0)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q if q_scale is None else q * q_scale[..., None, None].astype(q.dtype), k, v

    def _products(
        self, x: Float[Array, "*batch D"], name: str
    ) -> Sequence[Float[Array, "*batch _"]]:
        """`x` times each of the matrices that have a name in `JOINED`: one product if joined."""
        joined, parts = getattr(self, name), JOINED[name]
        if joined is None:
            return [_matmul(x, getattr(self, part)) for part in parts]
        return jnp.split(_matmul(x, joined), split_points(parts, self.config), axis=-1)

    def finish(
        self, h: Float[Array, "*batch D"], mixed: Float[Array, "*batch Q H"]
    ) -> Float[Array, "*batch D"]:
        """The residual stream after this layer, given its attention's weighted values."""
        mixed = mixed.reshape(*mixed.shape[:-2], -1)
        h = h + _matmul(mixed, self.o)
        with jax.named_scope("mlp"):
            x = rms_norm(h, self.mlp_norm[...], self.config.rms_norm_eps)
            gate, up = self._products(x, "gate_up")
            h = h + _matmul(jax.nn.silu(gate) * up, self.down)
        if self.steering is None:
            return h
        with jax.named_scope("steer"):
            return self.steering(h)

    def project_step(
        self,
        h: Float[Array, "X B D"],
        cos: Float[Array, "#X B H"],
        sin: Float[Array, "#X B H"],
        q_scale: Float[Array, "#X B"] | None = None,
    ) -> tuple[Float[Array, "X B K G H"], Float[Array, "X B K H"], Float[Array, "X B K H"]]:
        """The first part of a decoding step: `project` for one new token of every lane.

        Queries are grouped by the key/value head that they share, as attention over parts needs.
        """
        q, k, v = self.project(h, cos, sin, q_scale)
        return q.reshape(*k.shape[:-1], -1, k.shape[-1]), k, v

    def finish_step(self, h: Float[Array, "X B D"], parts: Sequence[Part]) -> Float[Array, "X B D"]:
        """The second part: the residual stream after this layer, given attention over each part.

        Between the two a decoding loop computes attention over its caches, and writes them.
        """
        mixed = merge_parts(*parts)
        mixed = mixed.reshape(*mixed.shape[:-3], -1, mixed.shape[-1])
        return self.finish(h, mixed.astype(h.dtype))

    def __call__(
        self,
        h_BSD: Float[Array, "B S D"],
        cos_SH: Float[Array, "S H"],
        sin_SH: Float[Array, "S H"],
        q_scale_S: Float[Array, " S"] | None = None,
    ) -> tuple[Float[Array, "B S D"], tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]]:
        """The residual stream after this layer, and the layer's keys and values."""
        with jax.named_scope("attention"):
            q_BSQH, k_BSKH, v_BSKH = self.project(h_BSD, cos_SH, sin_SH, q_scale_S)
            mixed_BSQH = self._attend(q_BSQH, k_BSKH, v_BSKH)
        return self.finish(h_BSD, mixed_BSQH), (k_BSKH, v_BSKH)

    def _attend(
        self, q: Float[Array, "B S Q H"], k: Float[Array, "B S K H"], v: Float[Array, "B S K H"]
    ) -> Float[Array, "B S Q H"]:
        window = self.config.sliding_window
        if self.config.sliding_layers is None:
            return attend(q, k, v, window)
        # Each branch has a static window, so that fused attention skips what is outside of it.
        branches = (functools.partial(attend, window=w) for w in (window, None))
        return jax.lax.cond(_of_layer(self.slides), *branches, q, k, v)


class Mistral(nnx.Module):
    """Embedding, stacked layers, final norm and unembedding."""

    lens: Lens | None = None  # set by an adapter that has one

    def __init__(
        self,
        config: ModelConfig,
        arrays: Mapping[str, Weight],
        mesh: Mesh | None = None,
    ):
        """Build the model on arrays as they are: nothing is copied or converted.

        Args:
            config: the shape of the model.
            arrays: parameter name -> array, as `parameters.parameter_shapes(config)` declares them;
                matrices of layers may be `Int8`, and `Apart`.
            mesh: the devices that the arrays are sharded over; None is one device.

        Raises:
            InputError: a parameter is missing, unknown or of another shape than the config says.
        """
        shapes = parameter_shapes(config)
        if set(arrays) != set(shapes):
            raise InputError(
                f"model parameters differ: {listed(sorted(set(arrays) ^ set(shapes)))}"
            )
        for name, shape in shapes.items():
            if tuple(arrays[name].shape) != shape:
                raise InputError(
                    f"parameter {name} is {tuple(arrays[name].shape)}, expected {shape}"
                )
        self.config = config
        self.mesh = mesh
        self.embed = nnx.Param(arrays["embed"])
        self.layers = Block(config, arrays)
        self.norm = nnx.Param(arrays["norm"])
        self.head = None if config.tie_word_embeddings else nnx.Param(arrays["head"])

    @property
    def depth(self) -> int:
        """How many layers there are, L: full depth, the deepest exit."""
        return self.config.num_hidden_layers

    def embed_tokens(self, tokens: Int[AnyArray, "*batch"]) -> Float[Array, "*batch D"]:
        """The residual stream before the first layer; NaN for ids outside the vocabulary."""
        table_VD = constrain(jnp.asarray(self.embed[...]), "VD", self.mesh)  # gathered along D
        return jnp.take(table_VD, tokens, axis=0, mode="fill", fill_value=jnp.nan)

    @property
    def is_apart(self) -> bool:
        """Whether each layer's matrices are arrays of their own."""
        return isinstance(self.layers.o, Apart)

    def blocks(self) -> Block:
        """All layers, with flags where layers differ; stacked ones as `jax.lax.scan` takes them."""
        slides, rotates = self.config.sliding_layers, self.config.rope_layers
        if slides is None and rotates is None:
            return self.layers
        blocks = jax.tree.map(lambda array: array, self.layers)  # a new module, the same arrays
        if slides is not None:
            blocks.slides = nnx.Variable(np.array(slides))
        if rotates is not None:
            blocks.rotates = nnx.Variable(np.array(rotates))
        return blocks

    def layer(self, i: int | Int[Array, ""]) -> Block:
        """Layer `i`, counted from 0; `i` may be traced unless layers are apart.

        Matrices of a stack are sliced when they are used. On a mesh they are sliced at once: each
        would wait for an activation that is sharded.
        """
        blocks = self.blocks()
        rest = jax.tree.map(lambda array: array, blocks)  # a new module, the same arrays
        names = [n for n in (*MATRICES, *JOINED) if getattr(blocks, n) is not None]
        for name in names:
            setattr(rest, name, None)
        block = slice_layer(rest, i)
        block.is_apart = self.is_apart
        for name in names:
            matrix = getattr(blocks, name)
            if isinstance(matrix, Apart):
                setattr(block, name, matrix.matrices[i])
            elif self.mesh is None:
                setattr(block, name, LazySlice(matrix, i))
            else:
                setattr(block, name, slice_layer(matrix, i))
        return block

    def rope_at(self, positions: Int[Array, "*batch"]) -> Rotation:
        """RoPE cosines and sines of some positions, and the scale of queries if there is one."""
        cos, sin = rope_table(self.config.rope, self.config.head_dim, positions)
        scaling = self.config.query_scaling
        return Rotation(cos, sin, None if scaling is None else query_scale(scaling, positions))

    def position_inputs(self, length: int) -> Rotation:
        """`rope_at` of positions 0 to `length - 1`, which every layer takes."""
        return self.rope_at(jnp.arange(length))

    def unembed(
        self, h: Float[Array, "*batch D"], exits: int | Int[AnyArray, "*exits"]
    ) -> Float[Array, "*batch V"]:
        """Float32 logits of residual streams: lens, if there is one, then final norm and head.

        Args:
            h: residual streams.
            exits: after which layer each was taken; its axes are the first ones of `h`.
        """
        with jax.named_scope("unembed"):
            if self.lens is not None:
                h = self.lens(h, jnp.asarray(exits), self.config.rms_norm_eps)
            x = rms_norm(h, self.norm[...], self.config.rms_norm_eps)
            head_VD = self.embed[...] if self.head is None else self.head[...]
            return jnp.einsum(
                "...d,vd->...v", x, head_VD, precision=HIGHEST, preferred_element_type=jnp.float32
            )


def on_mesh(model: Mistral, mesh: Mesh | None) -> Mistral:
    """The model with every parameter sharded over a mesh; the model itself where that is None.

    Raises:
        InputError: an axis of a parameter cannot be divided among its devices.
    """
    if mesh is None:
        return model
    sharded = jax.tree.map(lambda array: array, model)  # new modules, the same arrays
    sharded.mesh = mesh
    for name in parameter_shapes(model.config):
        in_layers, short = name.startswith("layers."), name.removeprefix("layers.")
        owner = sharded.layers if in_layers else sharded
        sharding = parameter_sharding(name, model.config, mesh)
        setattr(owner, short, nnx.Param(jax.device_put(getattr(owner, short)[...], sharding)))
    return sharded


def with_layers_apart(model: Mistral) -> Mistral:
    """The model with each layer's matrices in arrays of their own, which are copies."""
    apart = jax.tree.map(lambda array: array, model)  # new modules, the same arrays
    place_apart(apart.layers, apart.mesh)
    return apart
