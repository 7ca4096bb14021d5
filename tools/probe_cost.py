"""Cost of probing in one process: capture against a plain forward pass, fitting against capture.

    python tools/probe_cost.py MODEL [--rounds 3]

Prints the median ratio over rounds of one batch of 16 prompts (capture at three positions of all
layers, and a forward pass at full depth), then the ratio of the time to fit probes of every layer,
three positions, five folds and six strengths to the time to capture 512 prompts.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np

import jaxdepth
from jaxdepth.probing.capture import residuals
from jaxdepth.probing.fit import fit_logistic
from jaxdepth.probing.folds import make_folds
from jaxdepth.probing.positions import locate
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts

PROMPTS, STRENGTHS = 512, (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def seconds(call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model, tokenizer = jaxdepth.load(args.model)
    depth = model.config.num_hidden_layers
    prompts = read_prompts(["builtin:pairs"])[:PROMPTS]
    located = locate(PromptEncoder(tokenizer), tokenizer, [p.text for p in prompts])
    batches = make_batches(located.ids, 16)

    def capture(batch):
        positions_BP = located.places_NP[list(batch.padded_indices)][:, [0, 1, -1]]
        return residuals(model, batch.tokens_BS, batch.lengths_B, positions_BP)

    def plain(batch):
        return jaxdepth.exit_logits(model, batch.tokens_BS, batch.lengths_B, depth)

    middle = batches[len(batches) // 2]
    seconds(lambda: (capture(middle), plain(middle)))  # compiles
    times = np.array(
        [
            [seconds(lambda: capture(middle)), seconds(lambda: plain(middle))]
            for _ in range(args.rounds)
        ]
    )
    ratio = np.median(times[:, 0] / times[:, 1])
    shape = middle.tokens_BS.shape
    print(f"capture / plain pass, {shape[0]} prompts of {shape[1]} tokens: {ratio:.2f}")

    captured, parts, rows = 0.0, [], []
    for batch in batches:
        start = time.perf_counter()
        parts.append(np.asarray(capture(batch))[: len(batch.indices)])
        captured += time.perf_counter() - start
        rows += batch.indices
    x_NPJD = np.concatenate(parts)[np.argsort(rows)]
    x_GND = x_NPJD.transpose(1, 2, 0, 3).reshape(-1, len(prompts), x_NPJD.shape[-1])
    y_N = np.array([p.label == "harmful" for p in prompts])
    fold_N = make_folds([p.pair_id for p in prompts], y_N, 5)
    train_FN = np.stack([(fold_N != f) & (fold_N != (f + 1) % 5) for f in range(5)])
    fitted = seconds(lambda: fit_logistic(x_GND, y_N, train_FN, STRENGTHS))
    print(
        f"fit / capture, {len(x_GND)} slices x 5 folds x {len(STRENGTHS)} strengths, "
        f"{len(prompts)} prompts, compiling included in both: {fitted / captured:.2f}"
    )


if __name__ == "__main__":
    main()
