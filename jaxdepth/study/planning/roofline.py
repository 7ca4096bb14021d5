"""What a program needs, and how long it takes at least: a roofline."""

from dataclasses import dataclass, field

from jaxdepth.study.planning.chips import Chip
from jaxdepth.study.planning.traffic import Traffic

# The share of a chip's memory that programs can use. The rest is the runtime's, or fragmented.
USABLE = 0.95


@dataclass(frozen=True)
class Program:
    """One compiled program on one chip: bytes, operations, seconds."""

    name: str
    arguments: int  # bytes
    caches: int  # bytes of the caches of prompts and lanes, wherever they are counted besides
    temporaries: int  # bytes
    flops: float  # of all matmuls
    # Bytes read from the chip's memory: caches once a pass, and weights as the program reads and
    # copies them where that is counted, else once a pass, too.
    traffic: int
    collectives: dict[str, int]  # bytes by kind
    instructions: int  # that compute or send; layers run in loops, so more layers add none
    chip: Chip
    outputs: int = 0  # bytes, without arguments that are updated in place
    weights: Traffic | None = None  # of a GPU's program, where it is counted
    text: str = field(default="", repr=False)  # as the compiler left it

    @property
    def peak_bytes(self) -> int:
        """The most memory that the program needs at once."""
        return self.arguments + self.temporaries + self.outputs

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= USABLE * self.chip.memory

    @property
    def times(self) -> dict[str, float]:
        """Seconds of each resource alone, if used at its published rate.

        An all-reduce sends its bytes about twice: to be summed, and to distribute the sum.
        """
        sent = sum(size * (2 if k == "all-reduce" else 1) for k, size in self.collectives.items())
        return {
            "matmuls": self.flops / self.chip.flops,
            "memory": self.traffic / self.chip.bandwidth,
            "links": sent / self.chip.links,
        }

    @property
    def seconds(self) -> float:
        """A lower bound: the time of the resource that takes longest."""
        return max(self.times.values())

    @property
    def bound_by(self) -> str:
        """The resource that takes longest."""
        return max(self.times, key=lambda resource: self.times[resource])


@dataclass(frozen=True)
class Planned:
    """The answer of `jaxdepth plan`."""

    programs: list[Program]
    largest: int  # the most prompts at once that fit; 0 if not even one per device does
    nearest: str | None  # the nearest options that fit, if these do not
    study_seconds: float  # a lower bound for the whole sweep
    refused: tuple[str, ...] = ()  # names of programs that the compiler says do not fit

    @property
    def fits(self) -> bool:
        return not self.refused and all(program.fits for program in self.programs)
