"""The staircase: which lanes run in which layers, and how many fit at once.

Streams are sorted deep to shallow. The layers are cut into a few segments, and a segment runs only
the streams that go deeper than where it starts: those are a prefix, so a static slice drops the
others. Within a segment the exit is traced, so lists of exits with one plan share one program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from jax.sharding import Mesh

from jaxdepth.errors import InputError
from jaxdepth.model.config import ModelConfig
from jaxdepth.model.sharding import pieces

# Segments are added until the layers that lanes run are at most this times the sum of the exits.
WASTE = 1.15


@dataclass(frozen=True)
class Segment:
    """Layers `first`..`last - 1`, run by the deepest `exits` of the exits."""

    first: int
    last: int
    exits: int


Plan = tuple[Segment, ...]


def plan_segments(exits: Sequence[int], count: int | None = None) -> Plan:
    """The segments for some exits, with the least work.

    Args:
        exits: exits in any order; repeated ones count as often as they are named.
        count: how many segments; by default as few as keep the work within `WASTE`.

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
    """How many layers all lanes of a prompt and sample run together, per token."""
    return sum((s.last - s.first) * s.exits for s in plan)


def describe(plan: Plan, exits: Sequence[int]) -> str:
    """A plan in words, for people who want to know what runs."""
    cuts = "; ".join(f"layers {s.first + 1}-{s.last}: {s.exits} exits" for s in plan)
    waste = lane_layers(plan) / sum(exits)
    return f"{len(plan)} segments ({cuts}), {waste:.2f} x the layers that the exits need"


@lru_cache(maxsize=256)
def _best(exits: tuple[int, ...], count: int) -> Plan:
    """The cut into `count` segments with the fewest lane-layers, by dynamic programming."""
    deepest = exits[0]
    running = [sum(e > start for e in exits) for start in range(deepest)]
    # best[n][end]: least work of layers 0..end-1 in n segments, and where the last one starts
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
    cuts = [deepest]
    for row in reversed(best[1:]):
        cuts.append(row[cuts[-1]][1])
    cuts.reverse()
    return tuple(Segment(a, b, running[a]) for a, b in pairwise(cuts))


@dataclass(frozen=True)
class Memory:
    """Bytes that decoding holds on a device besides the weights, for one batch."""

    prompt_cache: int
    lane_cache: int
    layer: int  # what is cut out of the caches while one layer runs
    logits: int

    @property
    def total(self) -> int:
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
    """What a batch of `prompts` of `length` padded tokens holds, `samples` of each exit.

    Args:
        config: the shape of the model.
        plan: its segments for the exits.
        prompts: prompts in the batch, of each device that prompts are divided among.
        length: padded length of the prompts.
        new_tokens: the most tokens that are generated.
        samples: lanes per prompt and exit.
        itemsize: bytes of a cached number.
        mesh: the devices that heads and vocabulary are divided among.
    """
    heads = config.num_key_value_heads // pieces("K", config.num_key_value_heads, mesh)
    vocabulary = config.vocab_size // pieces("V", config.vocab_size, mesh)
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
