"""Search for what fits: the most prompts at once, and the nearest settings."""

from jaxdepth.errors import InputError
from jaxdepth.model.sharding import parse_mesh, rows_of, whole_rows
from jaxdepth.study.planning import programs
from jaxdepth.study.planning.programs import TUNING, Exhausted
from jaxdepth.study.planning.roofline import USABLE, Planned, Program
from jaxdepth.study.planning.shapes import Shapes, with_mesh


def largest_batch(shapes: Shapes, compiled: list[Program], prompts: int) -> int:
    """The most prompts at once whose sweep fits; 0 if not even one per device does.

    Memory is almost affine in the number of prompts, so two points give a guess, and a few more
    compilations correct it.

    Args:
        shapes: what is planned.
        compiled: the programs for `prompts` prompts, as far as they compile.
        prompts: see `compiled`.
    """
    unit, usable = rows_of(shapes.mesh), USABLE * shapes.chip.memory
    unit_peaks = _sweep_peaks(shapes, unit)
    if unit_peaks is None or max(unit_peaks) > usable:
        return 0
    count, compiled_peaks = prompts, [p.peak_bytes for p in compiled if p.name != TUNING]
    peaks: list[int] | None = compiled_peaks
    if len(compiled_peaks) < len(unit_peaks) or count == unit:
        count, peaks = 2 * unit, _sweep_peaks(shapes, 2 * unit)
    if peaks is None:
        return unit

    def extrapolate(count: int, peaks: list[int]) -> int:
        """The largest batch on the lines through the peaks for `unit` and for `count` prompts."""
        limits = (
            unit + (usable - low) * (count - unit) / max(high - low, 1)
            for low, high in zip(unit_peaks, peaks, strict=True)
        )
        return int(min(limits)) // unit * unit

    best, refused, guess = unit, None, extrapolate(count, peaks)
    while guess > best:
        peaks = _sweep_peaks(shapes, guess)
        if peaks is not None and max(peaks) > usable:
            # At least one unit fewer: small batches may lie off the line.
            guess = min(extrapolate(guess, peaks), guess - unit)
            continue
        if peaks is None:
            refused = guess
        else:
            best = guess
        if refused is None or refused - best <= max(unit, refused // 20):
            break
        guess = (best + refused) // 2 // unit * unit
    return best


def _sweep_peaks(shapes: Shapes, prompts: int) -> list[int] | None:
    """Peak bytes of each program of the sweep; None if the compiler refuses one."""
    compilers = programs.compilers(shapes, prompts)
    try:
        return [
            compile_program().peak_bytes
            for name, compile_program in compilers.items()
            if name != TUNING
        ]
    except Exhausted:
        return None


def nearest_fit(shapes: Shapes, planned: Planned) -> str | None:
    """Options that fit where the planned ones do not; None if none were found.

    Fewer prompts at once; or if that does not help, more devices for each copy of the model.
    """
    tuning_fits = TUNING not in planned.refused and all(
        program.fits for program in planned.programs if program.name == TUNING
    )
    if planned.largest and tuning_fits:
        return f"--prompts {planned.largest}"
    s = shapes.settings
    for axis in ("model", "fsdp"):
        sizes = parse_mesh(s.mesh)
        while sizes["data"] % 2 == 0:
            sizes = sizes | {"data": sizes["data"] // 2, axis: sizes[axis] * 2}
            mesh = ",".join(f"{name}={size}" for name, size in sizes.items() if size > 1)
            try:
                other = with_mesh(shapes, mesh)
                fits = s.sequences == 0 or programs.tuning_step(other).fits
                largest = largest_batch(other, [], 0) if fits else 0
            except InputError:  # so many devices do not divide the heads or a width
                break
            except Exhausted:
                continue
            if largest:
                return f"--mesh {mesh} --prompts {min(largest, whole_rows(s.prompts, other.mesh))}"
    return None
