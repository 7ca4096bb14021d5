"""Profile the compiled decoding loop: shares of busy time by kind of operation.

    python tools/step_profile.py MODEL [--prompts 1 4] [--new-tokens 16]

Prints the shares of the threads' busy time at full depth and at all exits. A thread that waits for
others counts as busy, so the shares are rough.
"""

import argparse
import collections
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import jaxdepth
from jaxdepth.depth.decode import decode, prefill
from jaxdepth.depth.lanes import plan_segments
from jaxdepth.depth.sampling import Sampling, TokenSampler, lane_keys
from jaxdepth.study.planning.bench import random_prompts

# Kinds of operation, by patterns of names in the optimised program; the first match counts.
KINDS = (
    ("slicing layers out of stacked weights", r"dynamic_index_in_dim|_index_in_dim"),
    ("matmuls of the MLP", r"mlp/dot_general"),
    ("matmul of the head", r"unembed/.*dot_general"),
    ("attention over the caches", r"rh,.*sh->|rs,.*sh->|jit\(_where\)|/exp$"),
    ("matmuls of q, k, v, o", r"dot_general"),
)
REST = "the rest"


def kind_of(op_name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, op_name)), REST)


def profile(model, prompts: int, exits: list[int], new_tokens: int) -> dict[str, float]:
    """Share of busy time by kind."""
    tokens, lengths = (jnp.asarray(a) for a in random_prompts(model, prompts, 48))
    exits, plan = sorted(exits, reverse=True), plan_segments(exits)
    cache, picked = prefill(model, tokens, lengths, jnp.array(exits), plan[-1].last)
    keys = lane_keys(range(prompts), exits, [0]).reshape(len(exits), prompts)
    args = model, cache, picked, lengths, jnp.array(exits), keys, TokenSampler.of(Sampling(), ())
    run = decode.lower(*args, plan=plan, samples=1, max_new_tokens=new_tokens).compile()
    names = re.findall(r'%?([\w.\-]+) = .*?op_name="([^"]+)"', run.as_text())
    kinds = {name: kind_of(op_name) for name, op_name in names}
    jax.block_until_ready(run(*args))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run(*args))
        file = next(Path(folder).rglob("*.xplane.pb"))
        busy = collections.Counter()
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events if "XLAEigen" in line.name else ():
                    if re.match(r"[a-z]", event.name) and not event.name.startswith("end: "):
                        if event.name.startswith("while"):
                            continue  # contains the others
                        busy[kinds.get(event.name, REST)] += event.duration_ns
    total = sum(busy.values())
    return {kind: time / total for kind, time in busy.most_common()}


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a converted checkpoint")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--new-tokens", type=int, default=16)
    args = parser.parse_args()
    model, _ = jaxdepth.load(args.model)
    depth = model.config.num_hidden_layers
    columns = [
        (f"{prompts} prompt{'s' if prompts > 1 else ''}, {name}", prompts, exits)
        for prompts in args.prompts
        for name, exits in (("full depth", [depth]), ("all exits", list(range(1, depth + 1))))
    ]
    shares_of = [profile(model, prompts, exits, args.new_tokens) for _, prompts, exits in columns]
    print(f"| share of busy time | {' | '.join(name for name, *_ in columns)} |")
    print("|---" * (1 + len(columns)) + "|")
    for kind in (*(kind for kind, _ in KINDS), REST):
        print(f"| {kind} | {' | '.join(f'{shares.get(kind, 0):.0%}' for shares in shares_of)} |")


if __name__ == "__main__":
    main()
