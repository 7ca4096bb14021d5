"""Load a checkpoint: read each array straight to the devices that keep it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxdepth.cpu.host_arrays import aligned_empty, fill_transposed
from jaxdepth.errors import InputError, listed
from jaxdepth.model.apart import place_apart
from jaxdepth.model.attention import default_platform
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.int8 import Int8, to_int8
from jaxdepth.model.mistral import Mistral, on_mesh
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.model.sharding import parameter_sharding, parameter_spec, to_host
from jaxdepth.runtime.distributed import raise_on_all
from jaxdepth.weights.adapter import apply_adapter, find_adapter, read_adapter
from jaxdepth.weights.checkpoint import (
    MANIFEST,
    digest,
    read_chunk,
    read_manifest,
)
from jaxdepth.weights.huggingface.adapter_tokenizer import load_adapted_tokenizer
from jaxdepth.weights.prefetch import prefetch
from jaxdepth.weights.tensor_map import HF_NAMES, MappedTensor, tensor_map


def load(
    path: str | Path,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    adapter: str | Path | None = None,
    int8: bool = False,
    apart: bool | None = None,
) -> tuple[Mistral, Any]:
    """Load a converted checkpoint: the model and its tokenizer.

    Every array is compared with its digest from conversion. Besides the model a host needs memory
    for a few of its arrays; on a mesh, where weights go straight into their shards, for no more.

    Args:
        path: a folder made by `jaxdepth convert`.
        dtype: of the weights and of the residual stream; None keeps that of the embedding on disk.
            Norms, softmax and RoPE are computed in float32 whatever the dtype.
        mesh: the devices that share the model, from `jaxdepth.make_mesh`; None is one device.
        adapter: to merge in: `builtin:NAME`, a file from `jaxdepth tune`, or a PEFT folder.
        int8: quantise the matrices of the layers to 8-bit integers with a scale for each output;
            without an adapter they are quantised one layer at a time.
        apart: whether each layer's matrices are arrays of their own, which a GPU decodes with
            faster, or stacked, which compiles faster and is what training wants; None: on GPUs.

    Returns:
        The model, and a transformers fast tokenizer: that of a PEFT folder if it has one, else the
        checkpoint's (None if the source had none).

    Raises:
        InputError: there is no checkpoint at `path`, an array is damaged or missing, the mesh does
            not divide an array, or the adapter is for another base.
    """
    path = Path(path)
    manifest = read_manifest(path)
    config, _ = read_config(path / "config.json")
    records = manifest["leaves"]
    if config.num_hidden_layers > len(records):  # before as many tensors are mapped
        raise InputError(f"{path}: {MANIFEST} and config.json differ: convert again")
    tensors = {tensor.key: tensor for tensor in tensor_map(config, HF_NAMES)}
    if set(tensors) != set(records):
        differing = listed(sorted(set(tensors) ^ set(records)))
        raise InputError(f"{path}: {MANIFEST} and config.json differ in {differing}: convert again")
    stored_dtype = jnp.dtype(records["embed"]["dtype"])
    dtype = jnp.dtype(dtype or stored_dtype)
    # An adapter is merged in the wider of both dtypes, and what is merged rounded afterwards.
    read_dtype = dtype if adapter is None else jnp.promote_types(stored_dtype, dtype)
    parameters = _Parameters(config, read_dtype, mesh, int8 and adapter is None)
    _read(path, tensors, records, parameters)
    model = Mistral(config, parameters.on_devices(), mesh)
    folder = None if adapter is None else find_adapter(str(adapter))
    tokenizer = load_adapted_tokenizer(path, folder, config.vocab_size)
    if adapter is not None:
        model = apply_adapter(
            model,
            tokenizer,
            manifest["fingerprint"],
            read_adapter(str(adapter), config),
            str(adapter),
        )
        model = on_mesh(jax.tree.map(lambda array: array.astype(dtype), model), mesh)
        for name in MATRICES if int8 else ():
            setattr(model.layers, name, jax.jit(to_int8)(getattr(model.layers, name)[...]))
    if default_platform() == "gpu" if apart is None else apart:
        place_apart(model.layers, mesh)
    return model, tokenizer


@dataclass
class _Parameters:
    """The parameters of a model, filled in place one array at a time."""

    config: ModelConfig
    dtype: jnp.dtype
    mesh: Mesh | None
    int8: bool  # whether the matrices of the layers are quantised
    arrays: dict[str, Any] = field(default_factory=dict)  # numpy arrays, JAX arrays and Int8

    def add(self, tensor: MappedTensor, array: Any) -> None:
        """Copy an array of the checkpoint into its parameter.

        Args:
            tensor: what the array is.
            array: a numpy or JAX array as on disk, outputs first; on a mesh sharded as by
                `_disk_sharding`.
        """
        layer, name = tensor.layer_and_parameter
        sharding = None if self.mesh is None else parameter_sharding(name, self.config, self.mesh)
        if layer is None:
            self.arrays[name] = _cast(array, self.dtype, sharding)
            return
        is_int8 = self.int8 and name.removeprefix("layers.") in MATRICES
        in_host_memory = self.mesh is None and not is_int8 and _host_is_device()
        if name not in self.arrays:
            shape = parameter_shapes(self.config)[name]
            if in_host_memory:
                self.arrays[name] = aligned_empty(shape, self.dtype)
            else:
                self.arrays[name] = _zeros(shape, jnp.int8 if is_int8 else self.dtype, sharding)
        if in_host_memory:
            fill_transposed(self.arrays[name][layer], array)
            return
        unquantised = array.dtype if is_int8 else self.dtype
        layer_sharding = None if sharding is None else _layer_sharding(sharding)
        array = _transpose(array, unquantised, layer_sharding)
        array = jax.jit(to_int8)(array) if is_int8 else array
        # Waits: arrays that are read faster than they are inserted would fill the memory.
        self.arrays[name] = jax.block_until_ready(
            _insert(self.arrays[name], array, np.int32(layer))
        )

    def on_devices(self) -> dict[str, jax.Array | Int8]:
        """All parameters, once every array has been added."""
        return {name: _to_device(self.arrays.pop(name)) for name in list(self.arrays)}


def _read(
    path: Path,
    tensors: Mapping[str, MappedTensor],
    records: Mapping[str, Mapping],
    parameters: _Parameters,
) -> None:
    """Read every array of a checkpoint into `parameters`, and compare it with its digest."""
    mesh, shardings = parameters.mesh, None
    if mesh is not None:
        config = parameters.config
        shardings = {key: _disk_sharding(t, config, mesh) for key, t in tensors.items()}
    chunks: dict[int, list[str]] = {}
    for key in tensors:
        chunks.setdefault(records[key]["chunk"], []).append(key)

    def read(number: int) -> tuple[dict, InputError | None]:
        arrays = read_chunk(path, number, shardings)
        shapes = {key: tuple(array.shape) for key, array in arrays.items()}
        if shapes != {key: tensors[key].shape for key in chunks[number]}:
            raise InputError(f"{path}: chunk {number} holds other arrays than {MANIFEST} says")
        errors = [
            _damage(path, key, arrays[key], records[key]["sha256"], index)
            for index, key in enumerate(chunks[number])
        ]
        return arrays, next(filter(None, errors), None)

    first_error = None
    # No prefetching on a mesh: there all processes read in step.
    for arrays, error in (prefetch if mesh is None else map)(read, chunks):
        first_error = first_error or error
        if mesh is None and first_error:
            raise first_error
        for key in list(arrays):
            parameters.add(tensors[key], arrays.pop(key))  # popped, so that its memory is freed
    raise_on_all(first_error)


def _disk_sharding(tensor: MappedTensor, config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """How a mesh shards an array as it is on disk, where the outputs come first."""
    layer, name = tensor.layer_and_parameter
    spec = parameter_spec(name.removeprefix("layers."), config, mesh)
    return NamedSharding(mesh, spec if layer is None else PartitionSpec(*spec[::-1]))


def _damage(path: Path, key: str, array, sha256: str, index: int) -> InputError | None:
    """The error if an array differs from its digest; of several processes one in turn checks it."""
    whole = to_host(array)
    if index % jax.process_count() != jax.process_index() or digest(whole) == sha256:
        return None
    return InputError(
        f"{path}: array {key} is not what was converted: the files are damaged, convert again"
    )


def _host_is_device() -> bool:
    """Whether the model can use numpy's arrays without a copy."""
    return default_platform() == "cpu"


def _to_device(array: np.ndarray | jax.Array | Int8) -> jax.Array | Int8:
    """An array on the device; numpy's is not copied if it is aligned."""
    return jax.device_put(array, may_alias=True) if isinstance(array, np.ndarray) else array


def _zeros(shape: tuple[int, ...], dtype, sharding: NamedSharding | None) -> jax.Array | Int8:
    """The stack of a parameter's layers, to be filled."""
    values = jnp.zeros(shape, dtype, device=sharding)
    if dtype != jnp.int8:
        return values
    scale = None
    if sharding is not None:  # as the outputs are
        scale = NamedSharding(sharding.mesh, PartitionSpec(sharding.spec[0], sharding.spec[2]))
    return Int8(values, jnp.zeros((shape[0], shape[2]), jnp.float32, device=scale))


def _layer_sharding(sharding: NamedSharding) -> NamedSharding:
    """The sharding of one layer of a stack."""
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@functools.partial(jax.jit, static_argnames=("dtype", "sharding"))
def _cast(array, dtype, sharding):
    return _constrain(array.astype(dtype), sharding)


@functools.partial(jax.jit, static_argnames=("dtype", "sharding"))
def _transpose(array, dtype, sharding):
    """A layer's array, inputs first. Fused with `_insert` it would take three times as long."""
    return _constrain(array.T.astype(dtype), sharding)


@functools.partial(jax.jit, donate_argnums=0)
def _insert(stack, array, layer):
    """The stack with one layer replaced, in place."""

    def insert(stack, array):
        return jax.lax.dynamic_update_index_in_dim(stack, array, layer, 0)

    return jax.tree.map(insert, stack, array)


def _constrain(array, sharding):
    return array if sharding is None else jax.lax.with_sharding_constraint(array, sharding)
