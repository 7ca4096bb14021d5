"""Modules that need another library: imported when they are used."""

import importlib
from types import ModuleType

from jaxdepth.errors import InputError


def import_with(module: str, extra: str, command: str) -> ModuleType:
    """Import a module of the package that needs an extra.

    Args:
        module: its dotted name.
        extra: what installs the libraries that it needs.
        command: that the user gave, for the error.

    Raises:
        InputError: one of the libraries is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("jaxdepth"):
            raise
        raise InputError(f"{command} needs {error.name}: pip install 'jaxdepth[{extra}]'") from None
