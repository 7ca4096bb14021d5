"""What bounds decoding on a CPU: its time beside that of its products alone.

    python tools/decode_floor.py MODEL [--prompts 16] [--exits 16-30] [--new-tokens 8] [--rounds 3]
        [--dtype bfloat16] [--apart]

Prints seconds of processor time (of all threads together, which other work on the machine changes
little) of decoding, of its matrix products run one by one with nothing between them, and of the
same by kind. The products are the floor of this program: what lies above it is attention, norms,
copies of weights and the choice of tokens.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth
from jaxdepth.depth.decode import decode, prefill
from jaxdepth.depth.exits import parse_exits
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.model.attention import HIGHEST
from jaxdepth.model.parameters import MATRICES, parameter_shapes
from jaxdepth.study.planning.bench import random_prompts


def processor_seconds(run: Callable[[], object], rounds: int, repeats: int = 1) -> float:
    """The median over rounds of one run, which is repeated in each."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(repeats):
            jax.block_until_ready(run())
        taken.append((time.process_time() - start) / repeats)
    return float(np.median(taken))


def products(config, plan, prompts: int) -> dict[str, list[tuple[int, int, int, int]]]:
    """Of one step, by kind: rows, inputs, outputs and how often each product runs."""
    shapes = parameter_shapes(config)
    in_layers = [
        (name, segment.exits * prompts, *shapes[f"layers.{name}"][1:], segment.last - segment.first)
        for segment in plan
        for name in MATRICES
    ]
    mlp = ("gate", "up", "down")
    return {
        "products of q, k, v, o": [shape for name, *shape in in_layers if name not in mlp],
        "products of the MLP": [shape for name, *shape in in_layers if name in mlp],
        "products of the head": [
            (plan[0].exits * prompts, config.hidden_size, config.vocab_size, 1)
        ],
    }


def seconds_of_products(shapes, is_head: bool, dtype, rounds: int) -> tuple[float, float]:
    """Processor seconds and FLOPs of some products, each timed alone."""
    total, flops = 0.0, 0.0
    for rows, inputs, outputs, times in shapes:
        x = jnp.ones((rows, inputs), dtype)
        matrix = jnp.ones((outputs, inputs) if is_head else (inputs, outputs), dtype)
        axes = (((1,), (1 if is_head else 0,)), ((), ()))
        multiply = jax.jit(lambda x, m, axes=axes: jax.lax.dot_general(x, m, axes, HIGHEST))
        one = 2.0 * rows * inputs * outputs
        repeats = max(1, int(2e9 / one))
        total += times * processor_seconds(lambda: multiply(x, matrix), rounds, repeats)  # noqa: B023
        flops += times * one
    return total, flops


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a converted checkpoint")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--exits", default="16-30")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--apart", action="store_true", help="each layer's matrices apart")
    args = parser.parse_args()
    model, _ = jaxdepth.load(args.model, args.dtype, apart=args.apart)
    exits = sorted(parse_exits(args.exits, model.depth), reverse=True)
    plan, steps = plan_segments(exits), args.new_tokens - 1
    tokens, lengths = (jnp.asarray(a) for a in random_prompts(model, args.prompts, 48))
    cache, picked = prefill(model, tokens, lengths, jnp.array(exits), plan[-1].last)
    keys = lane_keys(range(args.prompts), exits, [0]).reshape(len(exits), args.prompts)
    inputs = model, cache, picked, lengths, jnp.array(exits), keys, TokenSampler.of(Sampling(), ())

    def run():
        return decode(*inputs, plan=plan, samples=1, max_new_tokens=args.new_tokens)

    whole = processor_seconds(run, args.rounds) / steps
    print("| of one step | processor seconds | share | GFLOP | GFLOP/s |\n|---|---|---|---|---|")
    floor, flops = 0.0, 0.0
    for kind, shapes in products(model.config, plan, args.prompts).items():
        seconds, counted = seconds_of_products(shapes, "head" in kind, args.dtype, args.rounds)
        floor, flops = floor + seconds, flops + counted
        rate = counted / seconds / 1e9
        print(
            f"| {kind} | {seconds:.3f} | {seconds / whole:.0%} | {counted / 1e9:.1f} | {rate:.0f} |"
        )
    print(f"| the rest | {whole - floor:.3f} | {1 - floor / whole:.0%} | | |")
    print(f"| decoding | {whole:.3f} | 100% | {flops / 1e9:.1f} | {flops / whole / 1e9:.0f} |")


if __name__ == "__main__":
    main()
