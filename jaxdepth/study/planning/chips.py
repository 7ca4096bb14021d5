"""What a chip can do, by the figures that its maker publishes."""

from dataclasses import dataclass

from jaxdepth.errors import InputError, nearest


@dataclass(frozen=True)
class Chip:
    """One accelerator."""

    memory: float  # bytes
    flops: float  # bfloat16, dense, per second
    bandwidth: float  # bytes per second, to its own memory
    links: float  # bytes per second, to other chips of the slice or host


# TPUs: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "system architecture", per chip.
TPUS = {
    "v4": Chip(32e9, 275e12, 1228e9, 300e9),
    "v5e": Chip(16e9, 197e12, 819e9, 200e9),
    "v5p": Chip(95e9, 459e12, 2765e9, 600e9),
    "v6e": Chip(32e9, 918e12, 1640e9, 448e9),
}
# GPUs: NVIDIA's data sheets of the SXM modules; links are NVLink, both directions.
GPUS = {
    "A100": Chip(80e9, 312e12, 2039e9, 600e9),
    "H100": Chip(80e9, 989e12, 3350e9, 900e9),
    "H200": Chip(141e9, 989e12, 4800e9, 900e9),
}


def find_chip(name: str, known: dict[str, Chip]) -> Chip:
    """Raises InputError for a chip that is not in the table."""
    if name not in known:
        raise InputError(
            f"no figures for {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )
    return known[name]
