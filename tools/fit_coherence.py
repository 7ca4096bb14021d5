"""Fit the two limits of the coherence rule on labelled texts, and check them.

    python tools/fit_coherence.py --reference MODEL     # reads $JAXDEPTH_DATA/xstest/completions

MODEL is a converted checkpoint: it gives the log-probabilities, and its early exits generate
degenerate text. Coherent are answers that people labelled full compliance; degenerate are the same
answers broken in four ways, and the texts of exits up to 26/30 of the depth. The limits are fitted
on half the prompts; the tables are of the other half. Prints them and writes jaxdepth/data.
"""

import argparse
import csv
import itertools
import json
import os
import string
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

import jaxdepth
from jaxdepth.errors import InputError
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.coherence import (
    LIMITS_FILE,
    degeneracy,
    judge_coherence,
    repetition,
)
from jaxdepth.refusal.reference import Reference, score_alone

LENGTHS = (16, 32, 64, 128)  # tokens that an answer is truncated to
COMPLIANCE, REFUSAL, SHALLOW = "compliance", "refusal", "shallow exits"
REPEATING = "repeats rightly"  # sound texts of our own that the limits must let pass
SOUND = (
    "Row the boat along the shore,\nrow it home, my dear.\nRow the boat along the shore,\n"
    "supper time is near.",
    "The rain came down on the old tin roof,\nthe rain came down all night,\n"
    "the rain came down till the cock crew,\nand then it all was bright.",
    "| day | rain |\n|---|---|\n| Mon | 3 mm |\n| Tue | 0 mm |\n| Wed | 7 mm |",
    "x = 1\ny = 2\nz = 3\nprint(x, y)\nprint(y, z)\nprint(x, z)",
    "1. Wash the rice.\n2. Boil the water.\n3. Add the rice.\n4. Wait ten minutes.\n"
    "5. Drain the rice.",
    "Who goes there? The miller. Who goes with him? The miller's son. Who follows them? The dog.",
)
# Exits of a network of 30 layers. The texts of the last few are partly coherent and have no label:
# they are reported only.
EXITS, LATE = (3, 8, 12, 16, 20, 22, 24, 26), (28, 29, 30)
MIN_RECALL = 0.95  # on each kind of degenerate text
MAX_FALSE = 0.01  # of compliances
NEW_TOKENS = 48
DEPTH = 30
REPETITIONS = np.arange(0.1, 1, 0.01)
LOGPROBS = np.arange(-8, -3, 0.05)


class Sample(NamedTuple):
    """A text with its kind as label."""

    kind: str
    held_out: bool
    text: str
    tokens: int


def published(tokenizer, folder: Path) -> list[Sample]:
    """Truncated answers of other models, and each compliance broken in one way."""
    rng = np.random.default_rng(0)
    samples, refusals = [], 0
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                kind = {"1": COMPLIANCE, "2": REFUSAL}.get(row["final_label"][0])
                refusals += kind == REFUSAL
                if kind is None or (kind == REFUSAL and refusals % 3):  # a third is enough
                    continue
                held_out = bool(int(row["id"].rpartition("-")[2]) % 2)
                length = int(rng.choice(LENGTHS))
                ids = tokenizer(row["completion"], add_special_tokens=False)["input_ids"][:length]
                samples.append(Sample(kind, held_out, tokenizer.decode(ids), len(ids)))
                if kind == COMPLIANCE and len(ids) >= LENGTHS[0]:
                    broken = list(BREAKS)[len(samples) % len(BREAKS)]
                    text = BREAKS[broken](tokenizer, ids, rng)
                    samples.append(Sample(broken, held_out, text, len(ids)))
    return samples


def exit_samples(
    model, tokenizer, prompts: int, exits, new_tokens: int = NEW_TOKENS
) -> list[Sample]:
    """Greedy answers of exits to built-in prompts, truncated to a third, two thirds or not."""
    rng = np.random.default_rng(0)
    encoder = PromptEncoder(tokenizer)
    ordinary = read_prompts(["builtin:ordinary"])
    ordinary = ordinary[:: len(ordinary) // prompts][:prompts]
    depth = model.config.num_hidden_layers
    layers = [max(1, round(depth * e / DEPTH)) for e in exits]
    samples = []
    for batch in make_batches([encoder.encode(p.text) for p in ordinary], prompts):
        generated = jaxdepth.generate(
            model, batch.tokens_BS, batch.lengths_B, layers, new_tokens,
            stop_tokens=[tokenizer.eos_token_id],
        )  # fmt: skip
        for row, index in enumerate(batch.indices):
            for column, exit_ in enumerate(exits):
                length = min(generated.lengths[row, column], new_tokens * rng.integers(1, 4) // 3)
                ids = generated.tokens[row, column, :length]
                text = tokenizer.decode(ids, skip_special_tokens=True)
                kind = SHALLOW if exit_ in EXITS else f"exit {exit_}/{DEPTH}"
                samples.append(Sample(kind, bool(index % 2), text, int(length)))
    return samples


def _shuffle_words(tokenizer, ids, rng) -> str:
    return " ".join(rng.permutation(tokenizer.decode(ids).split()))


def _shuffle_tokens(tokenizer, ids, rng) -> str:
    return tokenizer.decode(rng.permutation(ids))


def _corrupt(tokenizer, ids, rng) -> str:
    """Letters replaced or swapped in a third or more of the words of three letters or more."""
    words = tokenizer.decode(ids).split(" ")
    long = [n for n, word in enumerate(words) if sum(map(str.isalpha, word)) >= 3]
    count = int(np.ceil(len(long) * rng.uniform(1 / 3, 1)))
    for n in rng.permutation(long)[:count].astype(int):
        word = np.array(list(words[n]))
        letters = np.flatnonzero(np.char.isalpha(word))
        for _ in range(len(letters) // 3):
            a, b = rng.choice(letters, 2, replace=False)
            if rng.random() < 0.5:
                word[[a, b]] = word[[b, a]]
            else:
                word[a] = string.ascii_lowercase[rng.integers(26)]
        words[n] = "".join(word)
    return " ".join(words)


def _loop(tokenizer, ids, rng) -> str:
    """An intact beginning of up to a quarter, then a phrase three times or more."""
    lead, phrase = rng.integers(0, len(ids) // 4 + 1), rng.integers(1, len(ids) // 4 + 1)
    text = list(ids[:lead]) + list(ids[lead : lead + phrase]) * len(ids)
    return tokenizer.decode(text[: len(ids)])


BREAKS = {
    "words shuffled": _shuffle_words,
    "tokens shuffled": _shuffle_tokens,
    "letters changed": _corrupt,
    "looped": _loop,
}


def fit(samples: list[Sample], logprobs: list[np.ndarray]) -> dict:
    """The limits that tell most broken texts from sound ones.

    They call at most `MAX_FALSE` of the compliances degenerate, none of the texts that repeat
    rightly, and at least `MIN_RECALL` of each broken kind; and of the broken kinds together as many
    as possible. On ties, those that tolerate most repetition.

    Raises:
        InputError: there are none.
    """
    fitted_on = [n for n, s in enumerate(samples) if not s.held_out and s.text.strip()]
    kind_N = np.array([samples[n].kind for n in fitted_on])
    repeats_N = np.array([repetition(samples[n].text) for n in fitted_on])
    mean_N = np.array(
        [np.nanmean(logprobs[n]) if len(logprobs[n]) >= 4 else 0.0 for n in fitted_on]
    )
    best = None
    for repeats, mean in itertools.product(REPETITIONS, LOGPROBS):
        limits = {"repetition": repeats, "mean_logprob": mean}
        degenerate_N = degeneracy(repeats_N, mean_N, limits) > 1
        if all(degenerate_N[kind_N == kind].mean() >= MIN_RECALL for kind in (*BREAKS, SHALLOW)):
            false = degenerate_N[kind_N == COMPLIANCE].mean()
            if false <= MAX_FALSE and not degenerate_N[kind_N == REPEATING].any():
                recall = np.mean([degenerate_N[kind_N == k].mean() for k in (*BREAKS, SHALLOW)])
                rank = (recall, repeats, -mean)
                best = max(best or rank, rank)
    if best is None:
        raise InputError(
            f"no limits detect {MIN_RECALL:.0%} of each kind of degenerate text and at most "
            f"{MAX_FALSE:.0%} of the compliances"
        )
    return {"repetition": round(float(best[1]), 3), "mean_logprob": round(float(-best[2]), 3)}


def shares(samples: list[Sample], logprobs: list[np.ndarray]) -> dict[str, list[str]]:
    """By kind and length: the number judged degenerate and the number of texts; the last is all."""
    judged = judge_coherence([s.text for s in samples], logprobs)
    edges = (0, *LENGTHS)
    cells = {}
    for kind in dict.fromkeys(s.kind for s in samples):
        cells[kind] = []
        for low, high in (*zip(edges, LENGTHS, strict=False), (-1, LENGTHS[-1])):
            degenerate = [
                c.degenerate is True
                for c, s in zip(judged, samples, strict=True)
                if s.kind == kind and low < s.tokens <= high
            ]
            cells[kind].append(
                f"{sum(degenerate)}/{len(degenerate)} {np.mean(degenerate):.3f}"
                if degenerate
                else ""
            )
    return cells


def read_samples(model, tokenizer, data: Path) -> list[Sample]:
    """Published answers, whole and broken, and texts of exits."""
    samples = published(tokenizer, data / "xstest" / "completions")
    if not samples:
        sys.exit(f"no answers in {data}/xstest/completions: expected a CSV file per model")
    samples += [Sample(REPEATING, False, text, len(tokenizer(text)["input_ids"])) for text in SOUND]
    return samples + exit_samples(model, tokenizer, 32, (*EXITS, *LATE))


def scores_of(reference: Reference, samples: list[Sample]) -> list[np.ndarray]:
    """Log-probabilities of the samples as replies to an empty message."""
    return [scores.alone_T for scores in score_alone(reference, [s.text for s in samples])]


def measure(reference: Reference, tokenizer, data: Path) -> list[str]:
    """The table of the limits that the package ships, on held-out prompts."""
    samples = [s for s in read_samples(reference.model, tokenizer, data) if s.held_out]
    table = shares(samples, scores_of(reference, samples))
    lines = ["| kind | 1-16 | 17-32 | 33-64 | 65-128 | all |", "|---|---|---|---|---|---|"]
    return lines + [f"| {kind} | {' | '.join(cells)} |" for kind, cells in table.items()]


def main() -> None:
    """Print the table and write the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, help="a converted checkpoint")
    data = os.environ.get("JAXDEPTH_DATA")
    if not data:
        sys.exit("JAXDEPTH_DATA is not set: point it at the folder that holds xstest/completions")
    model, tokenizer = jaxdepth.load(parser.parse_args().reference)
    reference = Reference(model, PromptEncoder(tokenizer))
    samples = read_samples(model, tokenizer, Path(data))
    limits = fit(samples, scores_of(reference, samples))
    path = Path(jaxdepth.__file__).parent / "data" / LIMITS_FILE
    path.write_text(json.dumps(limits) + "\n", "utf-8")
    print(f"wrote {path.name}: {limits}\n\nJudged degenerate on held-out prompts, by tokens:\n")
    print("\n".join(measure(reference, tokenizer, Path(data))))


if __name__ == "__main__":
    main()
