"""The published figures of accelerators."""

from dataclasses import dataclass

from jaxdepth.errors import InputError, nearest


@dataclass(frozen=True)
class Chip:
    """One accelerator."""

    memory: float  # bytes
    flops: float  # per second: bfloat16, dense
    bandwidth: float  # bytes per second, of its own memory
    links: float  # bytes per second, to other chips of the slice or host


# cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "system architecture", per chip.
TPUS = {
    "v4": Chip(32e9, 275e12, 1228e9, 300e9),
    "v5e": Chip(16e9, 197e12, 819e9, 200e9),
    "v5p": Chip(95e9, 459e12, 2765e9, 600e9),
    "v6e": Chip(32e9, 918e12, 1640e9, 448e9),
}
# NVIDIA's data sheets of the SXM modules; links are NVLink, both directions together.
GPUS = {
    "A100": Chip(80e9, 312e12, 2039e9, 600e9),
    "H100": Chip(80e9, 989e12, 3350e9, 900e9),
    "H200": Chip(141e9, 989e12, 4800e9, 900e9),
}


def find_chip(name: str, chips: dict[str, Chip]) -> Chip:
    """A chip of `TPUS` or `GPUS` by name.

    Raises:
        InputError: there are no figures for it.
    """
    if name not in chips:
        raise InputError(
            f"no figures for {name!r}{nearest(name, chips)}; expected one of {', '.join(chips)}"
        )
    return chips[name]
