"""How arrays are sharded: the axes of a mesh, and rules from axis letters to them.

    data    prompts, with all their lanes
    fsdp    prompts too, and the width D of every parameter, gathered when a layer needs it
    model   heads, MLP and vocabulary of every layer

Axis letters are those of `jaxdepth.model`; `parameters` declares them for each parameter. Key/value
heads that an axis does not divide evenly are replicated; any other uneven division is an error.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxdepth.errors import InputError, nearest
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import PARAMETERS, axis_sizes

AnyMesh = Mesh | AbstractMesh  # where nothing is placed, its shape alone
AXES = ("data", "fsdp", "model")
BATCH = ("data", "fsdp")
PARAMETER_RULES = {"V": "model", "D": "fsdp", "F": "model", "A": "model", "C": "model", "H": None}
ACTIVATION_RULES = {"B": BATCH, "K": "model", "V": "model"}


def parse_mesh(text: str) -> dict[str, int]:
    """Parse the sizes of mesh axes, such as `data=4,model=2`; axes not named have size 1.

    Raises:
        InputError: the text cannot be read.
    """
    sizes = dict.fromkeys(AXES, 1)
    named = set()
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if name not in AXES:
            raise InputError(
                f"mesh {text!r}: no axis is called {name!r}{nearest(name, AXES)}; expected "
                f"{', '.join(AXES)}, as in data=4,model=2"
            )
        if name in named:
            raise InputError(f"mesh {text!r} names {name} twice")
        if not (equals and size.isdecimal() and int(size)):
            raise InputError(f"mesh {text!r}: {part.strip()!r} needs a size of 1 or more")
        named.add(name)
        sizes[name] = int(size)
    return sizes


def make_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the mesh that `--mesh` describes, over some devices (by default all of every process).

    Raises:
        InputError: the text cannot be read, or there are not that many devices.
    """
    sizes = parse_mesh(text)
    devices = jax.devices() if devices is None else devices
    count = math.prod(sizes.values())
    # A process without a device in the mesh would have nothing to run.
    if count > len(devices) or (jax.process_count() > 1 and count < len(devices)):
        raise InputError(
            f"mesh {text} is of {count} devices, there are {len(devices)} "
            f"({devices[0].device_kind}): make the product of its sizes that"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, auto, devices=devices[:count])


def chosen_mesh(text: str | None) -> Mesh | None:
    """The mesh of `--mesh`; without it one device, or `data` over all where there are processes.

    Raises:
        InputError: as `make_mesh`.
    """
    if text is None and jax.process_count() == 1:
        return None
    return make_mesh(text or f"data={jax.device_count()}")


def describe(mesh: Mesh | None) -> str:
    """A mesh as it is written for `--mesh`; `one device` for None."""
    if mesh is None:
        return "one device"
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1) or "data=1"


def rows_of(mesh: AnyMesh | None) -> int:
    """How many devices (or groups of them) the prompts are sharded over."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH)


def whole_rows(rows: int, mesh: AnyMesh | None) -> int:
    """`rows` rounded up to a multiple of what prompts are sharded over."""
    return -(-rows // rows_of(mesh)) * rows_of(mesh)


def shares_columns(mesh: AnyMesh | None) -> bool:
    """Whether a device has only some of the outputs of a layer's matrices."""
    return mesh is not None and mesh.shape["model"] > 1


def parameter_spec(name: str, config: ModelConfig, mesh: AnyMesh) -> PartitionSpec:
    """The partition of a parameter; `name` as in `parameters.PARAMETERS`, without the axis L.

    Raises:
        InputError: an axis cannot be divided: names the parameter.
    """
    sizes = axis_sizes(config)
    spec: list[str | None] = []
    for letter in PARAMETERS[name]:
        axis = PARAMETER_RULES[letter]
        if axis is None:  # too small to divide
            spec.append(None)
            continue
        # Attention needs all columns of a head on one device.
        units = {"A": config.num_attention_heads, "C": config.num_key_value_heads}
        count = units.get(letter, sizes[letter])
        if count % mesh.shape[axis] == 0:
            spec.append(axis)
        elif letter == "C":
            spec.append(None)
        else:
            what = "query heads" if letter == "A" else f"({letter})"
            raise InputError(
                f"{name}: {count} {what} cannot be divided by {axis}={mesh.shape[axis]}: choose "
                f"another size for {axis}"
            )
    return PartitionSpec(*spec)


def parameter_sharding(name: str, config: ModelConfig, mesh: AnyMesh) -> NamedSharding:
    """The sharding of a parameter: `embed`, or `layers.q` with its axis L, which stays whole."""
    short = name.removeprefix("layers.")
    spec = parameter_spec(short, config, mesh)
    return NamedSharding(mesh, spec if short == name else PartitionSpec(None, *spec))


def activation_sharding(shape: tuple[int, ...], axes: str, mesh: AnyMesh) -> NamedSharding:
    """The sharding of an array that is no parameter, by the letters of its axes.

    Raises:
        InputError: the mesh does not divide the number of prompts.
    """
    spec = []
    for size, letter in zip(shape, axes, strict=True):
        rule = ACTIVATION_RULES.get(letter)
        if rule == BATCH and size % rows_of(mesh):
            raise InputError(
                f"{size} prompts at once cannot be divided by data x fsdp = {rows_of(mesh)}: use "
                "a multiple of it"
            )
        spec.append(rule if rule == BATCH or shards_of(letter, size, mesh) > 1 else None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def shards_of(letter: str, size: int, mesh: AnyMesh | None) -> int:
    """How many shards an axis of heads or vocabulary has: 1 where the mesh does not divide it."""
    rule = ACTIVATION_RULES.get(letter)
    parts = mesh.shape[rule] if mesh is not None and rule in mesh.shape else 1
    return parts if size % parts == 0 else 1


def constrain(array: jax.Array, axes: str, mesh: Mesh | None) -> jax.Array:
    """Constrain, inside a program, how an array is sharded; does nothing for no mesh."""
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, activation_sharding(array.shape, axes, mesh))


def shard(array: ArrayLike, axes: str, mesh: Mesh | None) -> jax.Array:
    """Shard an array that every process has as a whole; one that is already sharded is returned."""
    if mesh is None or isinstance(array, jax.core.Tracer):
        return jnp.asarray(array)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    host = np.asarray(array)
    sharding = activation_sharding(host.shape, axes, mesh)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def state_shardings(state: Any, config: ModelConfig, mesh: Mesh) -> Any:
    """Shardings of a training state: a parameter's arrays are sharded like it, others replicated.

    Args:
        state: a tree of arrays or shapes; parameters and their optimiser moments are in dicts with
            the keys of `model.tuned.Params`. A low-rank factor has one axis of its matrix.
        config: the shape of the model.
        mesh: the devices.
    """

    def of(path, array) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        short, _, factor = (names[-1] if names else "").removeprefix("layers.").partition(".")
        if short not in PARAMETERS:
            return NamedSharding(mesh, PartitionSpec())
        spec = tuple(parameter_spec(short, config, mesh))
        if factor:
            spec = {"a": (spec[0], None), "b": (None, spec[1])}[factor]
        stacked = names[-1].startswith("layers.")
        return NamedSharding(mesh, PartitionSpec(*((None,) if stacked else ()), *spec))

    return jax.tree_util.tree_map_with_path(of, state)


def reshard(tree: Any, shardings: Any) -> Any:
    """Reshard a tree of arrays; those on one device must be the same in every process."""

    def move(array, sharding):
        if isinstance(array.sharding, NamedSharding):
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(move, tree, shardings)


def to_host(array: ArrayLike) -> np.ndarray:
    """An array as a whole on the host of every process; all processes must call this together."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
