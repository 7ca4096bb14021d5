"""What judging answers costs beside generating them, in one process.

    python tools/judging_cost.py MODEL [--adapter NAME] [--rounds 3]

Answers 16 prompts of `make demo` at its exits, judges the answers, and prints the ratio of the two
times for each round, after one round that compiles.
"""

import argparse
import time

import jaxdepth
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.outcome import classify_texts
from jaxdepth.refusal.reference import Reference

EXITS, NEW_TOKENS, PROMPTS = range(16, 31), 24, 16


def main() -> None:
    """Print the ratio of each round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--adapter", default="builtin:spoken")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model, tokenizer = jaxdepth.load(arguments.model, adapter=arguments.adapter)
    base, _ = jaxdepth.load(arguments.model)
    encoder = PromptEncoder(tokenizer)
    prompts = [p.text for p in read_prompts(["builtin:pairs/test"])[:PROMPTS]]
    batch = make_batches([encoder.encode(p) for p in prompts], PROMPTS)[0]
    for number in range(arguments.rounds + 1):
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
        classify_texts(texts, asked, reference=Reference(base, encoder))
        judging, generating = time.perf_counter() - middle, middle - start
        if number:
            ratio = judging / generating
            print(f"round {number}: judging / generating = {ratio:.2f} ({len(texts)} answers)")


if __name__ == "__main__":
    main()
