"""The staircase: which lanes run in which layers, and how much memory they take.

Lanes are sorted from deep to shallow exits. The layers are split into a few segments, and a segment
runs only lanes whose exit is deeper than its start: those come first, so a static slice drops the
others. Within a segment the exit is traced, so lists of exits with the same plan share one program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from jax.sharding import Mesh

from jaxdepth.errors import InputError
from jaxdepth.model import Ints
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.sharding import shards_of

# Segments are added until lanes run at most this many times the layers that their exits need.
WASTE = 1.15


@dataclass(frozen=True)
class Segment:
    """Layers `first`..`last - 1`, run by the deepest `exits` of the exits."""

    first: int
    last: int
    exits: int


Plan = tuple[Segment, ...]


def plan_segments(exits: Ints, count: int | None = None) -> Plan:
    """The segments for some exits that need the least work.

    Args:
        exits: exits in any order; repeated ones count as often as they occur.
        count: how many segments; by default the fewest that keep the work within `WASTE`.

    Raises:
        InputError: more segments than layers, or fewer than one.
    """
    exits = tuple(sorted(exits, reverse=True))
    deepest = exits[0]
    if count is not None:
        if not 1 <= count <= deepest:
            raise InputError(f"{count} segments for {deepest} layers: expected 1 to {deepest}")
        return _best(exits, count)
    for number in range(1, deepest + 1):
        plan = _best(exits, number)
        if lane_layers(plan) <= WASTE * sum(exits):
            break
    return plan


def lane_layers(plan: Plan) -> int:
    """How many layers the lanes of a prompt and sample run in all, per token."""
    return sum((s.last - s.first) * s.exits for s in plan)


def describe(plan: Plan, exits: Sequence[int]) -> str:
    """A plan in words: which layers run how many exits, and how many layers that wastes."""
    segments = "; ".join(f"layers {s.first + 1}-{s.last}: {s.exits} exits" for s in plan)
    waste = lane_layers(plan) / sum(exits)
    return f"{len(plan)} segments ({segments}), {waste:.2f} x the layers that the exits need"


@lru_cache(maxsize=256)
def _best(exits: tuple[int, ...], count: int) -> Plan:
    """The split into `count` segments with the fewest lane-layers, by dynamic programming."""
    deepest = exits[0]
    running = [sum(e > start for e in exits) for start in range(deepest)]
    # best[n][end]: minimal work of layers 0..end-1 in n segments, and where the last one starts
    best = [{0: (0, 0)}]
    for _ in range(count):
        row = {}
        for end in range(1, deepest + 1):
            options = [
                (best[-1][start][0] + (end - start) * running[start], start)
                for start in range(end)
                if start in best[-1]
            ]
            if options:
                row[end] = min(options)
        best.append(row)
    bounds = [deepest]
    for row in reversed(best[1:]):
        bounds.append(row[bounds[-1]][1])
    bounds.reverse()
    return tuple(Segment(a, b, running[a]) for a, b in pairwise(bounds))


@dataclass(frozen=True)
class Memory:
    """Bytes that decoding a batch takes on a device besides the parameters."""

    prompt_cache: int
    lane_cache: int
    layer: int  # slices of the caches while one layer runs
    logits: int

    @property
    def total(self) -> int:
        """All of them together."""
        return self.prompt_cache + self.lane_cache + self.layer + self.logits


def memory(
    config: ModelConfig,
    plan: Plan,
    prompts: int,
    length: int,
    new_tokens: int,
    samples: int,
    itemsize: int,
    mesh: Mesh | None = None,
) -> Memory:
    """The memory that decoding one batch takes.

    Args:
        config: the shape of the model.
        plan: the segments for the exits.
        prompts: prompts in the batch, of each device that prompts are sharded over.
        length: padded length of the prompts.
        new_tokens: the maximum per lane.
        samples: lanes per prompt and exit.
        itemsize: bytes of a cached number.
        mesh: the devices that heads and vocabulary are sharded over.
    """
    heads = config.num_key_value_heads // shards_of("K", config.num_key_value_heads, mesh)
    vocabulary = config.vocab_size // shards_of("V", config.vocab_size, mesh)
    per_position = 2 * heads * config.head_dim * itemsize
    lanes = prompts * samples * plan[0].exits
    prompt_layer = per_position * prompts * length
    lane_layer = per_position * prompts * samples * new_tokens
    return Memory(
        prompt_cache=prompt_layer * plan[-1].last,
        lane_cache=lane_layer * lane_layers(plan),
        layer=prompt_layer + lane_layer * plan[0].exits,
        logits=4 * lanes * vocabulary,
    )
