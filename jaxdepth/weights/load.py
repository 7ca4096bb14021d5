"""A checkpoint into memory: array by array, straight to where each belongs."""

import functools
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdepth.cpu.host_arrays import aligned_empty, fill_turned
from jaxdepth.errors import InputError, listed
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.int8 import Int8, to_int8
from jaxdepth.model.mistral import Mistral, on_mesh
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.model.sharding import parameter_sharding, to_host, weight_spec
from jaxdepth.runtime.distributed import raise_on_all
from jaxdepth.weights.adapter import apply_adapter, read_adapter
from jaxdepth.weights.checkpoint import (
    MANIFEST,
    digest,
    load_tokenizer,
    read_chunk,
    read_manifest,
)
from jaxdepth.weights.prefetch import ahead
from jaxdepth.weights.tensor_map import HF_NAMES, Piece, plan


def load(
    path: str | Path,
    dtype=None,
    mesh: Mesh | None = None,
    adapter: str | Path | None = None,
    int8: bool = False,
) -> tuple[Mistral, object | None]:
    """A converted checkpoint: the model and its tokenizer.

    Every array is held against the digest that was taken when it was converted. Beyond the model
    itself a host needs room for a few of its arrays; on a mesh, where weights go straight into
    their shards, for nothing else.

    Args:
        path: a folder made by `jaxdepth convert`.
        dtype: of the weights and of the residual stream; None keeps that of the embedding on disk.
            Norms, softmax and RoPE are computed in float32 whatever the dtype.
        mesh: from `jaxdepth.make_mesh`: the devices that hold the model; None is one device.
        adapter: merged in: `builtin:NAME`, a file from `jaxdepth tune`, or a PEFT folder.
        int8: hold the layers' matrices as 8-bit integers with a scale for each output; without an
            adapter they are never held wider.

    Returns:
        The model, and a transformers fast tokenizer (None if the source had none).

    Raises:
        InputError: nothing converted at `path`, an array is damaged or missing, the mesh does not
            divide an array, or the adapter is for another base.
    """
    path = Path(path)
    manifest = read_manifest(path)
    config, _ = read_config(path / "config.json")
    leaves = manifest["leaves"]
    if config.num_hidden_layers > len(leaves):  # before a plan for as many is made
        raise InputError(f"{path}: {MANIFEST} and config.json differ: convert again")
    pieces = {p.key: p for p in plan(config, HF_NAMES)}
    if set(pieces) != set(leaves):
        wrong = listed(sorted(set(pieces) ^ set(leaves)))
        raise InputError(f"{path}: {MANIFEST} and config.json differ in {wrong}: convert again")
    dtype = jnp.dtype(dtype or leaves["embed"]["dtype"])
    # An adapter goes into the weights as they are on disk: rounding comes last.
    stored = dtype if adapter is None else jnp.dtype(leaves["embed"]["dtype"])
    arrays = _read(path, config, pieces, leaves, stored, mesh, int8 and adapter is None)
    model, tokenizer = Mistral(config, arrays, mesh), load_tokenizer(path)
    if adapter is not None:
        found = read_adapter(str(adapter), config)
        model = apply_adapter(model, tokenizer, manifest["fingerprint"], found, str(adapter))
        model = on_mesh(jax.tree.map(lambda array: array.astype(dtype), model), mesh)
        for name in MATRICES if int8 else ():
            setattr(model.layers, name, jax.jit(to_int8)(getattr(model.layers, name)[...]))
    return model, tokenizer


def _read(
    path: Path,
    config: ModelConfig,
    pieces: Mapping[str, Piece],
    leaves: Mapping[str, Mapping],
    dtype,
    mesh: Mesh | None,
    int8: bool,
) -> dict[str, jax.Array | Int8]:
    """Every leaf, filled layer by layer in the place where it stays."""
    shapes, held, on_disk = parameter_shapes(config), {}, None
    if mesh is not None:
        held = {name: parameter_sharding(name, config, mesh) for name in shapes}
        on_disk = {key: _held_on_disk(piece, config, mesh) for key, piece in pieces.items()}
    chunks: dict[int, list[str]] = {}
    for key in pieces:
        chunks.setdefault(leaves[key]["chunk"], []).append(key)

    def read(number: int) -> tuple[dict, InputError | None]:
        found = read_chunk(path, number, on_disk)
        shaped = {key: tuple(array.shape) for key, array in found.items()}
        if shaped != {key: pieces[key].shape for key in chunks[number]}:
            raise InputError(f"{path}: chunk {number} holds other arrays than {MANIFEST} says")
        checks = enumerate(chunks[number])
        errors = [_damage(path, pieces[key], found[key], leaves, turn) for turn, key in checks]
        return found, next(filter(None, errors), None)

    arrays, error = {}, None
    # Not ahead on a mesh: there processes do it together, step by step.
    for found, wrong in (ahead if mesh is None else map)(read, chunks):
        error = error or wrong
        if mesh is None and error:
            raise error
        for key in list(found):
            layer, name = pieces[key].layer_and_leaf
            part, sharding = found.pop(key), held.get(name)
            if layer is None:
                arrays[name] = _cast(part, dtype, sharding)
                continue
            small = int8 and name.removeprefix("layers.") in MATRICES
            if mesh is None and not small and _host_is_device():
                if name not in arrays:
                    arrays[name] = aligned_empty(shapes[name], dtype)
                fill_turned(arrays[name][layer], part)
                continue
            if name not in arrays:
                arrays[name] = _empty(shapes[name], jnp.int8 if small else dtype, sharding)
            wide = part.dtype if small else dtype
            part = _turned(part, wide, None if mesh is None else _of_layer(sharding))
            part = jax.jit(to_int8)(part) if small else part
            # Waited for: arrays that are read faster than they are put would pile up.
            arrays[name] = jax.block_until_ready(_put(arrays[name], part, np.int32(layer)))
    raise_on_all(error)
    return {name: _of_device(array) for name, array in arrays.items()}


def _host_is_device() -> bool:
    """Whether arrays of numpy can be those of the model as they are."""
    return jax.default_backend() == "cpu"


def _of_device(array: np.ndarray | jax.Array | Int8) -> jax.Array | Int8:
    """The same as an array of the device; one of numpy that is aligned is not copied."""
    return jax.device_put(array, may_alias=True) if isinstance(array, np.ndarray) else array


def _held_on_disk(piece: Piece, config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """How the devices divide an array as it is on disk, where the outputs come first."""
    layer, name = piece.layer_and_leaf
    spec = weight_spec(name.removeprefix("layers."), config, mesh)
    return NamedSharding(mesh, spec if layer is None else PartitionSpec(*spec[::-1]))


def _damage(path: Path, piece: Piece, array, leaves: Mapping, turn: int) -> InputError | None:
    """What is wrong with an array; of several processes one sees it whole, and says."""
    whole = to_host(array)
    if turn % jax.process_count() != jax.process_index():
        return None
    if digest(whole) == leaves[piece.key]["sha256"]:
        return None
    return InputError(
        f"{path}: array {piece.key} is not what was converted: the files are damaged, convert again"
    )


def _empty(shape: tuple[int, ...], dtype, sharding: NamedSharding | None) -> jax.Array | Int8:
    """A stack of a leaf's layers, to be filled."""
    values = jnp.zeros(shape, dtype, device=sharding)
    if dtype != jnp.int8:
        return values
    scale = None
    if sharding is not None:  # as the outputs are
        scale = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0], sharding.spec[2]))
    return Int8(values, jnp.zeros((shape[0], shape[2]), jnp.float32, device=scale))


def _of_layer(sharding: NamedSharding) -> NamedSharding:
    """How one layer of a stack is held."""
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@functools.partial(jax.jit, static_argnames=("dtype", "sharding"))
def _cast(part, dtype, sharding):
    return _kept(part.astype(dtype), sharding)


@functools.partial(jax.jit, static_argnames=("dtype", "sharding"))
def _turned(part, dtype, sharding):
    """A layer's array, inputs first. Apart from `_put`: fused with it, it is three times slower."""
    return _kept(part.T.astype(dtype), sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack, part, layer):
    """The stack with a layer's arrays in their place; no second stack is made."""

    def put(stack, part):
        return jax.lax.dynamic_update_index_in_dim(stack, part, layer, 0)

    return jax.tree.map(put, stack, part)


def _kept(array, sharding):
    return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)
