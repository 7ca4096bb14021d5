"""Plan a study for devices that this machine does not have: compile its programs ahead of time.

The functions that a study runs are compiled, with shapes in place of arrays, for a TPU topology or
for described GPUs; without a compiler for these, for as many virtual CPU devices. Memory and
collectives are those of the compiled programs.
Times are what the chip's published figures allow, a lower bound.
"""

import contextlib
import os
from dataclasses import replace

import jax

from jaxdepth.model.sharding import whole_rows
from jaxdepth.study.planning import programs
from jaxdepth.study.planning.programs import TUNING, Exhausted
from jaxdepth.study.planning.roofline import Planned
from jaxdepth.study.planning.search import largest_batch, nearest_fit
from jaxdepth.study.planning.settings import Plan
from jaxdepth.study.planning.shapes import shapes_of


def use_only_cpu(settings: Plan) -> None:
    """Keep this process off accelerators. Call it before any device is used."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this host is in no TPU slice
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # libtpu only compiles
    with contextlib.suppress(RuntimeError):  # devices were used: they serve if there are enough
        jax.config.update("jax_platforms", "cpu")
        if settings.cards is not None:
            jax.config.update("jax_num_cpu_devices", settings.cards[0])


def plan(settings: Plan) -> Planned:
    """Compile all programs, and find out what they need and what fits.

    Raises:
        InputError: as `shapes_of`.
    """
    shapes = shapes_of(settings)
    prompts = whole_rows(settings.prompts, shapes.mesh)
    compiled, refused = [], []
    for name, compile_program in programs.compilers(shapes, prompts).items():
        try:
            compiled.append(compile_program())
        except Exhausted:
            refused.append(name)
    largest = largest_batch(shapes, compiled, prompts)
    batches = -(-settings.study_prompts // prompts)
    seconds = batches * sum(program.seconds for program in compiled if program.name != TUNING)
    planned = Planned(compiled, largest, None, seconds, tuple(refused))
    return planned if planned.fits else replace(planned, nearest=nearest_fit(shapes, planned))
