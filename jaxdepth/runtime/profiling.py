"""JAX's compilation cache on disk, and profiles of the devices."""

import os
from pathlib import Path

import jax

COMPILATION_CACHE = Path("~/.cache/jaxdepth/programs")
_is_profiling = False


def use_compilation_cache() -> None:
    """Keep compiled programs on disk on accelerators; JAX_COMPILATION_CACHE_DIR chooses where.

    Not on CPUs: a program compiled for one CPU may not run on another that shares the directory.
    """
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined, unused-ignore]
    if jax.default_backend() != "cpu" and chosen is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(COMPILATION_CACHE))


def start_profile(folder: Path | None) -> None:
    """Start a profile that `end_profile` writes to `folder`; None starts none."""
    global _is_profiling
    if folder is not None:
        jax.profiler.start_trace(folder)
        _is_profiling = True


def end_profile() -> None:
    """Write the profile, if one was started."""
    global _is_profiling
    if _is_profiling:
        _is_profiling = False
        jax.profiler.stop_trace()
