"""Print the FLOPs table of docs/performance.md: the cost of all exits, against one pass.

    python tools/cost_table.py models/smollm2-135m-instruct

Work is counted in FLOPs of the traced programs' matmuls. Time is a ratio: the three programs
alternate in one process, and medians of their times are compared.
"""

import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

import jaxdepth
from jaxdepth.depth.layer_scan import scan_layers
from jaxdepth.model.mistral import Mistral
from jaxdepth.study.planning.flops import matmul_flops

LENGTH = 48  # tokens per prompt, about what a built-in prompt has in its template
ROUNDS = 7


def truncated(model: Mistral, depth: int) -> Mistral:
    """The model truncated to its first layers, which a loop over depths runs."""
    short = jax.tree.map(lambda leaf: leaf, model)
    short.layers = jax.tree.map(lambda leaf: leaf[:depth], model.layers)
    slides = model.config.sliding_layers
    short.config = short.layers.config = replace(
        model.config, num_hidden_layers=depth, sliding_layers=slides and slides[:depth]
    )
    return short


@jax.jit
def full_pass(model, tokens_BS):
    """A plain forward pass: logits at the last position, with no exit."""
    h_BSD, _ = scan_layers(model, model.embed_tokens(tokens_BS), lambda _: None)
    return model.unembed(h_BSD[:, -1], model.depth)


every_exit = jax.jit(jax.vmap(jaxdepth.exit_logits, in_axes=(None, None, None, 0)))


def measure(model: Mistral, batch: int) -> str:
    depth = model.config.num_hidden_layers
    tokens = jnp.asarray(np.random.default_rng(0).integers(17, 40_000, (batch, LENGTH)))
    lengths, exits = jnp.full(batch, LENGTH), jnp.arange(1, depth + 1)
    shorter = [truncated(model, d) for d in range(1, depth + 1)]
    one, every = full_pass.trace(model, tokens), every_exit.trace(model, tokens, lengths, exits)
    counted = [matmul_flops(traced.jaxpr) for traced in (one, every)]
    loop = sum(matmul_flops(full_pass.trace(m, tokens).jaxpr) for m in shorter)

    programs = {
        "one": lambda: full_pass(model, tokens),
        "every": lambda: every_exit(model, tokens, lengths, exits),
        "loop": lambda: [full_pass(m, tokens) for m in shorter],
    }
    times = {name: [] for name in programs}
    for program in programs.values():
        jax.block_until_ready(program())
    for _ in range(ROUNDS):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            times[name].append(time.perf_counter() - start)
    single = np.median(times["one"])

    def cells(name: str, flops: int) -> str:
        ratios = np.array(times[name]) / single
        low, high = ratios.min(), ratios.max()
        return f"{flops / counted[0]:.2f} | {np.median(ratios):.2f} ({low:.2f}-{high:.2f})"

    return (
        f"| {batch} | all {depth} exits, one program | {cells('every', counted[1])} |\n"
        f"| {batch} | loop over {depth} depths | {cells('loop', loop)} |"
    )


def main(path: str) -> None:
    model, _ = jaxdepth.load(path)
    print("| prompts | what | FLOPs / one pass | time / one pass (range) |")
    print("|---|---|---|---|")
    for batch in (1, 4, 16):
        print(measure(model, batch), flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/cost_table.py MODEL (a converted checkpoint)")
    main(sys.argv[1])
