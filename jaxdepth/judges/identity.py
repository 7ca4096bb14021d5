"""A digest of a function and of all that decides what it returns, so that a run knows its judge.

The digest covers bytecode, defaults, the values of closures, and the globals that the code names:
functions and classes of the user by their own code, modules by their files, installed packages by
their versions. It leaves out line numbers and file names. Where a value cannot be digested (an open
file, a client, an object of another package) the function's identity is unknown.
"""

import builtins
import enum
import functools
import hashlib
import logging
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

from jaxdepth.files import file_digest

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis))
_INSTALLED = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")
)

_OF_PYTHON = {
    *("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__"),
    *("__firstlineno__", "__static_attributes__"),
}


class UnknownIdentity(Exception):
    """Something that a function depends on cannot be digested; the message says what."""


def identity_of(judge: Callable) -> str:
    """The digest of a function or of a callable object; its attribute `identity`, if it has one.

    Raises:
        UnknownIdentity: it depends on something that cannot be digested.
    """
    given = getattr(judge, "identity", None)
    if isinstance(given, str) and given:
        return given
    walker = _Walker()
    text = f"{platform.python_version()} {walker.describe(judge)}"
    return hashlib.sha256(text.encode()).hexdigest()


class _Walker:
    """Describes values as text; a value that is met again is described by its number."""

    def __init__(self) -> None:
        self.number_of: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is used twice

    def describe(self, value: Any) -> str:
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}={value.value!r}"
        if type(value) in _PLAIN or isinstance(value, PurePath):
            return f"{type(value).__name__}:{value!r}"
        if id(value) in self.number_of:
            return f"#{self.number_of[id(value)]}"
        self.number_of[id(value)] = len(self.number_of)
        self.kept.append(value)
        parts = "\n".join(self._parts(value))
        return f"({type(value).__name__} {hashlib.sha256(parts.encode()).hexdigest()})"

    def _parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, list | tuple):
            yield from map(self.describe, value)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(self.describe, value))
        elif isinstance(value, dict):
            yield from sorted(
                f"{self.describe(k)} {self.describe(v)}" for k, v in sorted_items(value)
            )
        elif isinstance(value, re.Pattern):
            yield f"{value.pattern!r} {value.flags}"
        elif isinstance(value, logging.Logger):
            yield value.name
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            yield _array(np.asarray(value))
        elif isinstance(value, CodeType):
            yield from self._code(value)
        elif isinstance(value, ModuleType):
            yield from self._module(value)
        elif isinstance(value, MethodType):
            yield from (self.describe(value.__func__), self.describe(value.__self__))
        elif isinstance(value, functools.partial):
            yield from map(self.describe, (value.func, value.args, value.keywords))
        elif isinstance(value, BuiltinFunctionType):
            yield f"{value.__module__} {value.__qualname__}"
            if not isinstance(value.__self__, ModuleType | type(None)):
                yield self.describe(value.__self__)
        elif isinstance(value, FunctionType | type) and _is_installed(value.__module__):
            yield f"{value.__qualname__} {_release(value.__module__)}"
        elif isinstance(value, FunctionType):
            yield from self._function(value)
        elif isinstance(value, type):
            yield f"{value.__qualname__}"
            yield from map(self.describe, value.__bases__)
            yield from self._attributes(vars(value))
        elif not _is_installed(type(value).__module__) and hasattr(value, "__dict__"):
            yield self.describe(type(value))
            yield from self._attributes(vars(value))
        elif isinstance(value, property | staticmethod | classmethod):
            inner = [value.fget, value.fset] if isinstance(value, property) else [value.__func__]
            yield from map(self.describe, inner)
        else:
            raise UnknownIdentity(f"{type(value).__module__}.{type(value).__qualname__}")

    def _code(self, code: CodeType) -> Iterator[str]:
        yield f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_flags}"
        yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
        yield f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_cellvars}"
        yield from map(self.describe, code.co_consts)

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield from self._code(function.__code__)
        yield self.describe(function.__defaults__)
        yield self.describe(function.__kwdefaults__)
        yield self.describe(dict(vars(function)))
        for cell in function.__closure__ or ():
            try:
                yield self.describe(cell.cell_contents)
            except ValueError:
                yield "an empty cell"
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                yield f"{name} {self.describe(function.__globals__[name])}"
            elif hasattr(builtins, name):
                yield f"{name} of Python"

    def _module(self, module: ModuleType) -> Iterator[str]:
        name, file = module.__name__, getattr(module, "__file__", None)
        yield name
        if _is_installed(name):
            yield _release(name)
        elif file is None or not Path(file).is_file():
            raise UnknownIdentity(f"the module {name}")
        else:
            yield file_digest(Path(file))
            others = {k: v for k, v in vars(module).items() if isinstance(v, ModuleType)}
            yield from (f"{k} {self.describe(others[k])}" for k in sorted(others))

    def _attributes(self, attributes: Mapping[str, Any]) -> Iterator[str]:
        """Those of an object or class, without what Python adds to each."""
        for name in sorted(set(attributes) - _OF_PYTHON):
            yield f"{name} {self.describe(attributes[name])}"


def sorted_items(mapping: Mapping) -> list[tuple]:
    """The items of a dictionary in an order that does not depend on how it was filled."""
    return sorted(mapping.items(), key=lambda item: repr(item[0]))


def _names(code: CodeType) -> Iterator[str]:
    """The global names and attributes that a function's code has, those of inner functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _array(array: np.ndarray) -> str:
    if array.dtype.hasobject:
        raise UnknownIdentity("an array of objects")
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return f"{array.dtype} {array.shape} {content}"


def _is_installed(module_name: str | None) -> bool:
    """Whether a module is part of Python, of an installed package or of this one."""
    root = (module_name or "").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    module = sys.modules.get(root)
    file = getattr(module, "__file__", None)
    if root == "jaxdepth":
        return True
    return file is not None and any(p in Path(file).resolve().parents for p in _INSTALLED)


def _release(module_name: str) -> str:
    """The version of what a module belongs to; for this package also the file's digest."""
    root = module_name.partition(".")[0]
    try:
        release = f"{module_name} {version(root)}"
    except PackageNotFoundError:
        release = f"{module_name} {getattr(sys.modules.get(root), '__version__', '')}"
    file = getattr(sys.modules.get(module_name), "__file__", None)
    if root == "jaxdepth" and file is not None:
        release += f" {file_digest(Path(file))}"
    return release
