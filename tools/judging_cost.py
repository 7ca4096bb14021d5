"""What judging answers costs beside generating them, in one process.

    python tools/judging_cost.py MODEL [--rounds 3]

Each model of `make demo` answers 16 of its prompts at its exits; the answers are judged. Prints the
ratio of the two times, after one round that compiles.
"""

import argparse
import time

import numpy as np

import jaxdepth
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.outcome import classify_texts
from jaxdepth.refusal.reference import Reference

EXITS, NEW_TOKENS, PROMPTS = range(16, 31), 24, 16
ADAPTERS = (None, "builtin:shallow", "builtin:spoken", "builtin:depth_robust")


def main() -> None:
    """Print the ratio for each model and for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    base, tokenizer = jaxdepth.load(arguments.model)
    encoder = PromptEncoder(tokenizer)
    prompts = [p.text for p in read_prompts(["builtin:pairs/test"])[:PROMPTS]]
    batch = make_batches([encoder.encode(p) for p in prompts], PROMPTS)[0]
    total = np.zeros((arguments.rounds, 2))
    for adapter in ADAPTERS:
        model = jaxdepth.load(arguments.model, adapter=adapter)[0] if adapter else base
        rounds = [
            _round(model, Reference(base, encoder), tokenizer, batch, prompts)
            for _ in range(arguments.rounds + 1)
        ]
        seconds_R2 = np.array(rounds[1:])  # the first compiles
        total += seconds_R2
        _print_ratio(adapter or "untouched", seconds_R2)
    _print_ratio("all four", total)


def _round(model, reference, tokenizer, batch, prompts) -> tuple[float, float]:
    """Seconds of generating and of judging one batch."""
    start = time.perf_counter()
    generated = jaxdepth.generate(
        model, batch.tokens_BS, batch.lengths_B, list(EXITS), NEW_TOKENS,
        stop_tokens=[tokenizer.eos_token_id],
    )  # fmt: skip
    middle = time.perf_counter()
    texts, asked = [], []
    for row, index in enumerate(batch.indices):
        for column in range(len(EXITS)):
            ids = generated.tokens[row, column, : generated.lengths[row, column]]
            texts.append(tokenizer.decode(ids, skip_special_tokens=True))
            asked.append(prompts[index])
    classify_texts(texts, asked, reference=reference)
    return middle - start, time.perf_counter() - middle


def _print_ratio(name: str, seconds_R2: np.ndarray) -> None:
    ratios = seconds_R2[:, 1] / seconds_R2[:, 0]
    print(
        f"{name}: judging / generating = {np.median(ratios):.2f} "
        f"(rounds {ratios.min():.2f} to {ratios.max():.2f})"
    )


if __name__ == "__main__":
    main()
