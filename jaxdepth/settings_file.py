"""Settings as frozen dataclasses of groups: built from flat names, and read from TOML files.

A command's settings are composed of groups (`Model`, `Prompts`, `Decoding` ...), each a dataclass.
Options, TOML keys, keyword arguments and the settings in run.json are flat: no two fields of one
command have the same name.
"""

import ast
import functools
import inspect
import itertools
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.files import read_text
from jaxdepth.ranges import check_range
from jaxdepth.records import as_type

S = TypeVar("S")


def build(
    cls: type[S], values: Mapping[str, Any], where: str = "settings", missing: Any = MISSING
) -> S:
    """Build the settings `cls` from flat values; what is not given has its default.

    Args:
        cls: a dataclass of settings, with groups or without.
        values: field name -> value. Where several strings are expected one string is one item.
        where: what an error calls the values' origin.
        missing: stands for required values that are not given; by default they are an error.

    Raises:
        InputError: an unknown name (the nearest known one is named), a wrong type, or a required
            value is missing.
    """
    return _build(cls, check_settings(cls, values, where), where, missing, {})


def revise(settings: S, **changes) -> S:
    """Settings of the same class with some values changed, by their flat names."""
    return build(type(settings), flatten(settings) | changes)


def flatten(settings: Any) -> dict[str, Any]:
    """Every value by its name, groups dissolved."""
    flat: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        flat |= flatten(value) if is_dataclass(value) else {field.name: value}
    return flat


def read_settings(cls: type, name: str) -> dict[str, Any]:
    """Read flat values for `cls` from a TOML file.

    Args:
        cls: a dataclass of settings.
        name: a path, or the name of a file in configs/ without `.toml`.

    Raises:
        InputError: no such file, an unknown key (the nearest known one is named), a wrong type.
    """
    text, where = _find(name)
    try:
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"{where} is not valid TOML ({error})") from None
    return check_settings(cls, raw, where)


def check_settings(cls: type, raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Flat values with the types of the fields of `cls`; errors as in `build`."""
    types_of = {name: (declared, owner) for name, declared, owner in _fields_of(cls)}
    checked = {}
    for key, value in raw.items():
        if key not in types_of:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, types_of)}")
        declared, owner = types_of[key]
        checked[key] = as_type(value, declared, f"{where}: {key}")
        check_range(owner, key, checked[key], f"{where}: ")
    return checked


def field_types(cls: type) -> Iterator[tuple[str, Any]]:
    """The flat names of a dataclass of settings, each with its type."""
    for name, declared, _ in _fields_of(cls):
        yield name, declared


def _fields_of(cls: type) -> Iterator[tuple[str, Any, type]]:
    """The flat names of a dataclass of settings: type of each, and the group that it is of."""
    types_of = _type_hints(cls)
    for field in fields(cls):
        if is_dataclass(types_of[field.name]):
            yield from _fields_of(types_of[field.name])
        else:
            yield field.name, types_of[field.name], cls


@functools.cache
def field_help(cls: type) -> dict[str, str]:
    """The string below each field of one dataclass, and of those it inherits from, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in itertools.pairwise(body.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                match below:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        texts[field.target.id] = " ".join(text.split())
    return texts


@functools.cache
def _type_hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _build(cls, values, where: str, missing, defaults: Mapping[str, Any]):
    """`defaults` are those that an outer dataclass gives for the fields of this group."""
    types_of, arguments = _type_hints(cls), {}
    for field in fields(cls):
        default = defaults.get(field.name, _default(field))
        if is_dataclass(types_of[field.name]):
            inner = {} if default is MISSING else vars(default)
            arguments[field.name] = _build(types_of[field.name], values, where, missing, inner)
            continue
        value = values.get(field.name, default)
        if value is MISSING:
            if missing is MISSING:
                raise InputError(f"{where}: {field.name} is missing")
            value = missing
        arguments[field.name] = value
    return cls(**arguments)


def _default(field: Field) -> Any:
    if field.default is not MISSING:
        return field.default
    return MISSING if field.default_factory is MISSING else field.default_factory()


def _find(name: str) -> tuple[str, str]:
    if Path(name).is_file():
        return read_text(Path(name)), name
    # In a wheel the files lie inside the package, in a checkout beside it.
    package = files("jaxdepth")
    for folder in (package / "configs", Path(str(package)).parent / "configs"):
        if folder.is_dir():
            by_name = _settings_files(folder)
            if name in by_name:
                return by_name[name].read_text("utf-8"), f"configs/{name}.toml"
            raise InputError(
                f"no settings file {name}{nearest(name, by_name)}; there are {listed(by_name, 9)}"
            )
    raise InputError(f"no settings file {name}")


def _settings_files(folder: Traversable, within: str = "") -> dict[str, Traversable]:
    """The .toml files of a folder and those below it: their names without .toml."""
    paths: dict[str, Traversable] = {}
    for file in folder.iterdir():
        if file.is_dir():
            paths |= _settings_files(file, f"{within}{file.name}/")
        elif file.name.endswith(".toml"):
            paths[within + file.name.removesuffix(".toml")] = file
    return paths
