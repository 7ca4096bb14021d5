"""Which device holds which part of an array: the axes of a mesh, and rules from letters to them.

    data    prompts, with all lanes of theirs
    fsdp    prompts too, and of every weight a part of its width D, gathered when a layer needs it
    model   heads, MLP and vocabulary of every layer

Every array names its axes by letters, as in its suffix; `model.leaves` declares those of weights.
Key and value heads that cannot be divided are held whole by every device; anything else that
cannot is an error.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdepth.errors import InputError, nearest
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.parameters import PARAMETERS, axis_sizes

AXES = ("data", "fsdp", "model")
BATCH = ("data", "fsdp")
WEIGHT_RULES = {"V": "model", "D": "fsdp", "F": "model", "A": "model", "C": "model"}
STREAM_RULES = {"B": BATCH, "K": "model", "V": "model"}


def parse_mesh(text: str) -> dict[str, int]:
    """Sizes of the axes from the command line, such as `data=4,model=2`; axes not named have 1.

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


def make_mesh(text: str, devices=None) -> Mesh:
    """The mesh that `--mesh` asks for, over these devices (by default all of every process).

    Raises:
        InputError: the text cannot be read, or there are not that many devices.
    """
    sizes = parse_mesh(text)
    devices = jax.devices() if devices is None else devices
    wanted = math.prod(sizes.values())
    # A process without a part in the mesh would have nothing to run.
    if wanted > len(devices) or (jax.process_count() > 1 and wanted < len(devices)):
        raise InputError(
            f"mesh {text} is of {wanted} devices, there are {len(devices)} "
            f"({devices[0].device_kind}): make the product of its sizes that"
        )
    auto = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(sizes.values()), AXES, auto, devices=devices[:wanted])


def chosen_mesh(text: str | None) -> Mesh | None:
    """The mesh of `--mesh`; without it one device, or all data where there are several processes.

    Raises:
        InputError: as `make_mesh`.
    """
    if text is None and jax.process_count() == 1:
        return None
    return make_mesh(text or f"data={jax.device_count()}")


def describe(mesh: Mesh | None) -> str:
    """A mesh as `--mesh` has it; `one device` for none."""
    if mesh is None:
        return "one device"
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1) or "data=1"


def rows_of(mesh: Mesh | None) -> int:
    """By how many devices the prompts are divided."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH)


def whole_rows(rows: int, mesh: Mesh | None) -> int:
    """The least number of rows, at least so many, that the mesh divides."""
    return -(-rows // rows_of(mesh)) * rows_of(mesh)


def weight_spec(name: str, config: ModelConfig, mesh: Mesh) -> PartitionSpec:
    """How a leaf is divided; `name` as in `model.leaves`, without the axis L.

    Raises:
        InputError: an axis cannot be divided: names the leaf.
    """
    sizes, found = axis_sizes(config), []
    for letter in PARAMETERS[name]:
        axis = WEIGHT_RULES[letter]
        # Heads, not single columns, are what attention needs together.
        units = {"A": config.num_attention_heads, "C": config.num_key_value_heads}
        count = units.get(letter, sizes[letter])
        if count % mesh.shape[axis] == 0:
            found.append(axis)
        elif letter == "C":
            found.append(None)
        else:
            what = "query heads" if letter == "A" else f"({letter})"
            raise InputError(
                f"{name}: {count} {what} cannot be divided by {axis}={mesh.shape[axis]}: choose "
                f"another size for {axis}"
            )
    return PartitionSpec(*found)


def parameter_sharding(name: str, config: ModelConfig, mesh: Mesh) -> NamedSharding:
    """How a whole leaf is held: `embed`, or `layers.q` with its axis L, which is not divided."""
    short = name.removeprefix("layers.")
    spec = weight_spec(short, config, mesh)
    return NamedSharding(mesh, spec if short == name else PartitionSpec(None, *spec))


def stream_sharding(shape: tuple[int, ...], axes: str, mesh: Mesh) -> NamedSharding:
    """How an array that is no weight is held, by the letters of its axes.

    Raises:
        InputError: there are prompts that the mesh does not divide.
    """
    found = []
    for size, letter in zip(shape, axes, strict=True):
        rule = STREAM_RULES.get(letter)
        if rule == BATCH and size % rows_of(mesh):
            raise InputError(
                f"{size} prompts at once cannot be divided by data x fsdp = {rows_of(mesh)}: use "
                "a multiple of it"
            )
        found.append(rule if rule == BATCH or pieces(letter, size, mesh) > 1 else None)
    return NamedSharding(mesh, PartitionSpec(*found))


def pieces(letter: str, size: int, mesh: Mesh | None) -> int:
    """Into how many pieces an axis of heads or vocabulary is divided: 1 where it cannot be."""
    rule = STREAM_RULES.get(letter)
    parts = mesh.shape[rule] if mesh is not None and rule in mesh.shape else 1
    return parts if size % parts == 0 else 1


def constrain(array: jax.Array, axes: str, mesh: Mesh | None) -> jax.Array:
    """Inside a program: says how an array is held, where the compiler could choose otherwise."""
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, stream_sharding(array.shape, axes, mesh))


def shard(array, axes: str, mesh: Mesh | None) -> jax.Array:
    """An array of the host, which every process has whole, on the devices; arrays there stay."""
    if mesh is None or isinstance(array, jax.core.Tracer):
        return jnp.asarray(array)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    array = np.asarray(array)
    sharding = stream_sharding(array.shape, axes, mesh)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def state_shardings(state, config: ModelConfig, mesh: Mesh):
    """How a training state is held: what belongs to a weight as that weight is, the rest whole.

    Args:
        state: arrays, or their shapes; what is trained, and its moments, in dicts by the names of
            `model.tuned.Params`: of low-rank factors one axis is that of their matrix.
        config: of the model.
        mesh: its devices.
    """

    def of(path, array) -> NamedSharding:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        short, _, factor = (names[-1] if names else "").removeprefix("layers.").partition(".")
        if short not in PARAMETERS:
            return NamedSharding(mesh, PartitionSpec())
        spec = weight_spec(short, config, mesh)
        if factor:
            spec = {"a": (spec[0], None), "b": (None, spec[1])}[factor]
        stacked = names[-1].startswith("layers.")
        return NamedSharding(mesh, PartitionSpec(*((None,) if stacked else ()), *spec))

    return jax.tree_util.tree_map_with_path(of, state)


def reshard(tree, shardings):
    """A tree of arrays, held so; what is on one device only must be the same in every process."""

    def held(array, sharding):
        if isinstance(array.sharding, NamedSharding):
            return jax.device_put(array, sharding)
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(held, tree, shardings)


def to_host(array) -> np.ndarray:
    """An array of the devices, whole, on the host of every process: all must ask for it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
