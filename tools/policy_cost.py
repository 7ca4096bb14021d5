"""Cost of exit policies in one process: a grid of rules at once, and the time that one rule saves.

    python tools/policy_cost.py MODEL [--rounds 5] [--new-tokens 16] [--prompts 4]

First the time of a grid of rules in one run against that of the same rules one after the other.
Then one prompt under fixed exits that propagate the cache, at several depths, against full depth:
the share of layers and the share of time.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import jaxdepth
from jaxdepth.depth.policies import Caching, ExitRule, Policy
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts

GRID = [
    *(ExitRule(Policy.MARGIN, t) for t in (0.2, 0.5, 0.8)),
    *(ExitRule(Policy.TOP1, t) for t in (0.3, 0.6, 0.9)),
    *(ExitRule(Policy.SATURATION, t) for t in (0.9, 0.97)),
    *(ExitRule(Policy.PATIENCE, t) for t in (2, 3)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4)
    args = parser.parse_args()
    model, tokenizer = jaxdepth.load(args.model)
    depth, encoder = model.config.num_hidden_layers, PromptEncoder(tokenizer)
    texts = [p.text for p in read_prompts([f"builtin:pairs[:{args.prompts}]"])]
    batch = make_batches([encoder.encode(text) for text in texts], args.prompts)[0]
    exits = sorted({round(depth * share) for share in (0.53, 0.67, 0.8, 0.87, 0.93, 1)})
    grid = [*GRID, *(ExitRule(Policy.FIXED, exits[index]) for index in (1, -1))]

    def seconds(rules, rows) -> float:
        start = time.perf_counter()
        tokens_BS, lengths_B = batch.tokens_BS[:rows], batch.lengths_B[:rows]
        jaxdepth.generate_dynamic(model, tokens_BS, lengths_B, rules, exits, args.new_tokens)
        return time.perf_counter() - start

    def timed(programs) -> np.ndarray:
        for rules, rows in programs:
            seconds(rules, rows)  # compiles
        return np.array([[seconds(*p) for p in programs] for _ in range(args.rounds)])

    all_B = len(batch.lengths_B)
    times = timed([(grid, all_B), *(([rule], all_B) for rule in grid)])
    ratio = times[:, 0] / times[:, 1:].sum(axis=1)
    print(
        f"{len(grid)} rules in one run / one after the other, {all_B} prompts, "
        f"{args.new_tokens} new tokens: {np.median(ratio):.2f} "
        f"({ratio.min():.2f}-{ratio.max():.2f})"
    )
    fixed = [ExitRule(Policy.FIXED, d, caching=Caching.PROPAGATE) for d in exits]
    times = timed([([rule], 1) for rule in fixed])
    print("one prompt, one rule that propagates: layers | time, of full depth")
    for column, rule in enumerate(fixed):
        share = times[:, column] / times[:, -1]
        print(
            f"  fixed {rule.threshold}: {rule.threshold / depth:.2f} | {np.median(share):.2f} "
            f"({share.min():.2f}-{share.max():.2f})"
        )


if __name__ == "__main__":
    main()
