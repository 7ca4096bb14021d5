"""A weight that several tensors of a file hold together, and how they are found and checked."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from reprlib import repr as short  # values in a file may be long
from typing import Any, NamedTuple

import numpy as np

from jaxdepth.errors import InputError, listed

Arrays = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]  # the `quantization_config` of a config.json


class Header(NamedTuple):
    """What a file's header says of a tensor."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A quantised weight."""

    shape: tuple[int, ...]  # dequantised: outputs first
    parts: Mapping[str, str]  # role, such as "scales" -> name of the tensor
    dequantise: Callable[[Arrays], np.ndarray]  # from arrays by role to float32


class Found(NamedTuple):
    """What a method found among the tensors of a source."""

    packed: Mapping[str, Packed]  # by the name of the weight
    ignored: frozenset[str]  # tensors that no weight depends on, such as scales of activations


Headers = Mapping[str, Header]
Reader = Callable[[str], np.ndarray]  # reads a small tensor by its name
Finder = Callable[[Settings, Headers, Reader], Found]

# Scales of activations and of the cache, by the last part of their names.
ACTIVATIONS = frozenset(
    "activation_scale input_scale input_zero_point output_scale output_zero_point k_scale v_scale "
    "q_scale kv_scale".split()
)


def modules_with(headers: Headers, *roles: str) -> list[str]:
    """The modules that have a tensor of one of these roles, such as `model.layers.0.mlp.up`."""
    modules = {}
    for name in headers:
        module, _, role = name.rpartition(".")
        if role in roles:
            modules[module] = True
    return list(modules)


def parts_of(
    module: str, headers: Headers, required: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, str]:
    """The tensors of a module by role.

    Raises:
        InputError: a required one is missing.
    """
    names = {role: f"{module}.{role}" for role in (*required, *optional)}
    missing = [names[role] for role in required if names[role] not in headers]
    if missing:
        raise InputError(f"tensor {listed(missing)} is missing: the download is incomplete?")
    return {role: name for role, name in names.items() if name in headers}


def check_part(name: str, headers: Headers, dtypes: Iterable[str], *shapes: tuple) -> None:
    """Check the dtype of a tensor, and that it has one of some shapes.

    Raises:
        InputError: it has another.
    """
    header = headers[name]
    if header.dtype not in dtypes or header.shape not in shapes:
        raise InputError(
            f"tensor {name} is {header.dtype} {header.shape}, expected {' or '.join(dtypes)} "
            f"{' or '.join(map(str, shapes))}"
        )


def check_settings(settings: Settings, harmless: Iterable[str], only: Mapping[str, tuple]) -> None:
    """Check that nothing in a `quantization_config` is unknown.

    Args:
        settings: the config.
        harmless: names of what changes no weight, or is read elsewhere.
        only: the values that are understood of what does.

    Raises:
        InputError: names all that is not understood.
    """
    accepted = {"quant_method", *harmless}
    unknown = [
        f"{name} = {short(value)}"
        for name, value in settings.items()
        if name not in accepted and value not in only.get(name, (None, False, {}, []))
    ]
    if unknown:
        raise InputError(
            f"quantization_config of the method {settings.get('quant_method')!r} has "
            f"{listed(unknown)}, which is not implemented"
        )


def whole_number(settings: Settings, *names: str, default: int | None = None) -> int:
    """The first of some settings that is there.

    Raises:
        InputError: it is not a whole number, or there is none and no default.
    """
    for name in names:
        value = settings.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int):
                raise InputError(
                    f"quantization_config: {name} is {short(value)}, expected a number"
                )
            return value
    if default is None:
        raise InputError(f"quantization_config lacks {names[0]}")
    return default
