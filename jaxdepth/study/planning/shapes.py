"""A model and a batch as shapes, on a mesh of devices that this machine does not have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from jaxdepth.depth.exits import parse_exits
from jaxdepth.errors import InputError, one_line
from jaxdepth.model.apart import Apart, join
from jaxdepth.model.config import ModelConfig, read_config
from jaxdepth.model.mistral import Mistral
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.model.sharding import activation_sharding, make_mesh, parameter_sharding, parse_mesh
from jaxdepth.ranges import check_ranges
from jaxdepth.study.planning.cards import described_gpus, has_compiler
from jaxdepth.study.planning.chips import GPUS, TPUS, Chip, find_chip
from jaxdepth.study.planning.settings import Plan


@dataclass(frozen=True)
class Shapes:
    """What is planned: settings, and shapes in place of arrays."""

    settings: Plan
    config: ModelConfig
    mesh: Mesh
    chip: Chip
    platform: str  # that programs are compiled for; cpu: virtual devices in place of GPUs
    apart: bool  # whether layers are apart, except in training: on GPUs

    @property
    def exits(self) -> list[int]:
        return parse_exits(self.settings.exits, self.config.num_hidden_layers)

    def array(self, shape: Sequence[int], dtype: DTypeLike, axes: str) -> Any:
        """The shape of an array that is no parameter, to pass in place of one.

        It is sharded by the letters of its axes; `-` is an axis without a name.
        """
        sharding = activation_sharding(tuple(shape), axes, self.mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    @cached_property
    def stacked(self) -> Mistral:
        """The model as training has it."""
        return self._model(apart=False)

    @cached_property
    def model(self) -> Mistral:
        """The model as everything else has it."""
        return self._model(apart=True) if self.apart else self.stacked

    def _model(self, apart: bool) -> Mistral:
        arrays: dict[str, Any] = {}
        for name, (L, *shape) in parameter_shapes(self.config).items():
            sharding = parameter_sharding(name, self.config, self.mesh)
            if apart and name.removeprefix("layers.") in MATRICES:
                one = NamedSharding(self.mesh, PartitionSpec(*sharding.spec[1:]))
                array = jax.ShapeDtypeStruct(shape, self.settings.dtype, sharding=one)
                arrays[name] = Apart([array] * L)
            else:
                whole = (L, *shape)
                arrays[name] = jax.ShapeDtypeStruct(whole, self.settings.dtype, sharding=sharding)
        model = Mistral(self.config, arrays, self.mesh)
        if apart:
            join(model.layers, self.mesh)
        return model


def shapes_of(settings: Plan) -> Shapes:
    """The model, the mesh and the chip that the settings name.

    Raises:
        InputError: a number is too small, the model's config cannot be read, no programs can be
            compiled for the devices, or the mesh does not divide them or the model.
    """
    s = settings
    check_ranges(s)
    if s.topology is None and s.cards is None:
        raise InputError("name what to plan for: --topology v5e:4x4, or --gpus 8 --gpu H100")
    if s.topology is not None and s.cards is not None:
        raise InputError("--topology is a TPU slice, --gpus and --gpu are GPUs: name one of both")
    path = s.model / "config.json" if s.model.is_dir() else s.model
    config, _ = read_config(Path(path))
    mesh, chip, platform = _devices(s)
    for name in parameter_shapes(config):
        parameter_sharding(name, config, mesh)
    return Shapes(s, config, mesh, chip, platform, apart=platform == "cuda")


def with_mesh(shapes: Shapes, mesh: str) -> Shapes:
    """The same on another mesh of as many devices; errors as `shapes_of`."""
    settings = replace(shapes.settings, mesh=mesh)
    return replace(shapes, settings=settings, mesh=_devices(settings)[0])


def _devices(settings: Plan) -> tuple[Mesh, Chip, str]:
    """The mesh, its chip, and the platform to compile for."""
    s = settings
    if s.cards is not None:
        count, kind = s.cards
        chip = find_chip(kind, GPUS)
        _check_mesh(s.mesh, count)
        if s.gpu_memory is not None:
            chip = replace(chip, memory=s.gpu_memory * 1e9)
        if has_compiler():
            return make_mesh(s.mesh, described_gpus(kind, count)), chip, "cuda"
        if jax.device_count() < count:
            raise InputError(
                f"{count} GPUs are planned on as many virtual devices, this process has begun "
                f"with {jax.device_count()}: set JAX_NUM_CPU_DEVICES={count}"
            )
        return make_mesh(s.mesh, jax.devices()[:count]), chip, "cpu"
    name = s.topology or ""  # one of both is named
    chip = find_chip(name.partition(":")[0], TPUS)
    if find_spec("libtpu") is None:
        raise InputError("programs for TPUs need their compiler: pip install 'jaxdepth[tpu]'")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # jaxlib raises several types
        raise InputError(f"no programs for {name} can be compiled: {one_line(error)}") from None
    _check_mesh(s.mesh, len(devices))
    return make_mesh(s.mesh, devices), chip, "tpu"


def _check_mesh(text: str, devices: int) -> None:
    size = math.prod(parse_mesh(text).values())
    if size != devices:
        raise InputError(
            f"mesh {text} is of {size} devices, planned are {devices}: make the product of its "
            f"sizes that, as in --mesh data={devices}"
        )
