"""Settings from TOML files: those of a user, or of configs/ by their names."""

import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Literal

from jaxdepth.errors import InputError, listed, nearest


def read_settings(cls: type, name: str) -> dict:
    """Settings for the dataclass `cls` from a TOML file.

    Args:
        cls: one of the dataclasses of `jaxdepth.study.settings`.
        name: a path, or the name of a file in configs/ without `.toml`.

    Raises:
        InputError: no such file, an unknown key (the nearest known one is named), a wrong type.
    """
    text, where = _find(name)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML ({error})") from None
    return check_settings(cls, raw, where)


def check_settings(cls: type, raw: Mapping, where: str) -> dict:
    """Those settings with the types of the fields of `cls`; errors as in `read_settings`."""
    known = {f.name for f in fields(cls)}
    types_of = typing.get_type_hints(cls)
    out = {}
    for key, value in raw.items():
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
        out[key] = _as_type(value, types_of[key], f"{where}: {key}")
    return out


def _as_type(value, wanted, where: str):
    origin, options = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        wanted = next(o for o in options if o is not type(None))
        return _as_type(value, wanted, where)
    if origin is Literal:
        if value in options:
            return value
        raise InputError(f"{where} = {value!r}; expected one of {listed(map(repr, options), 9)}")
    if origin is tuple:
        if isinstance(value, list):
            return tuple(_as_type(item, options[0], where) for item in value)
    elif wanted is Path:
        if isinstance(value, str):
            return Path(value)
    elif type(value) is wanted or (wanted is float and type(value) is int):
        return wanted(value)
    name = "list" if origin is tuple else "string" if wanted is Path else wanted.__name__
    raise InputError(f"{where} = {value!r}; expected a {name}")


def _find(name: str) -> tuple[str, str]:
    if Path(name).is_file():
        return Path(name).read_text("utf-8"), name
    # In a wheel the files lie inside the package, in a checkout beside it.
    package = files("jaxdepth")
    for folder in (package / "configs", Path(str(package)).parent / "configs"):
        if folder.is_dir():
            there = _settings_files(folder)
            if name in there:
                return there[name].read_text("utf-8"), f"configs/{name}.toml"
            raise InputError(
                f"no settings file {name}{nearest(name, there)}; there are {listed(there, 9)}"
            )
    raise InputError(f"no settings file {name}")


def _settings_files(folder, within: str = "") -> dict:
    """The .toml files of a folder and those below it: their names without .toml."""
    found = {}
    for file in folder.iterdir():
        if file.is_dir():
            found |= _settings_files(file, f"{within}{file.name}/")
        elif file.name.endswith(".toml"):
            found[within + file.name.removesuffix(".toml")] = file
    return found
