"""How the devices' work is run: compiled programs kept between runs, and profiles of it."""

import os
from pathlib import Path

import jax

PROGRAMS = Path("~/.cache/jaxdepth/programs")
_profiled = False


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, for accelerators; JAX_COMPILATION_CACHE_DIR says where.

    Not on CPUs: a program for one may not run on another that shares the directory.
    """
    if jax.default_backend() != "cpu" and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser(PROGRAMS))


def start_profile(folder: Path | None) -> None:
    """Begins a profile that is written to `folder` by `end_profile`; None takes none."""
    global _profiled
    if folder is not None:
        jax.profiler.start_trace(folder)
        _profiled = True


def end_profile() -> None:
    """Writes the profile, if one was begun."""
    global _profiled
    if _profiled:
        _profiled = False
        jax.profiler.stop_trace()
