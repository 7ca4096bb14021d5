"""JAX's compilation cache on disk, and profiles of the devices."""

import os
from pathlib import Path

import jax

from jaxdepth.errors import one_line
from jaxdepth.runtime.folders import can_write
from jaxdepth.runtime.log import warn

COMPILATION_CACHE = Path("~/.cache/jaxdepth/programs")
_is_profiling = False


def use_compilation_cache() -> None:
    """Keep compiled programs on disk on accelerators; JAX_COMPILATION_CACHE_DIR chooses where.

    Not on CPUs: a program compiled for one CPU may not run on another that shares the directory.
    """
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined, unused-ignore]
    folder = chosen
    if jax.default_backend() != "cpu" and chosen is None:
        folder = os.path.expanduser(COMPILATION_CACHE)
    if folder and "://" not in folder and not can_write(Path(folder), "compiled programs"):
        folder = None  # or every program would warn of it
    if folder != chosen:
        jax.config.update("jax_compilation_cache_dir", folder)


def start_profile(folder: Path | None) -> None:
    """Start a profile that `end_profile` writes to `folder`; None starts none."""
    global _is_profiling
    if folder is not None and can_write(folder, "the profile"):
        jax.profiler.start_trace(folder)
        _is_profiling = True


def end_profile() -> None:
    """Write the profile, if one was started."""
    global _is_profiling
    if _is_profiling:
        _is_profiling = False
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # a full disk, and whatever else TensorFlow's writer raises
            warn(f"the profile cannot be written ({one_line(error)})")
