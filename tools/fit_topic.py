"""Fit the rule that tells whether a reply is to the point, and check it.

    python tools/fit_topic.py --reference MODEL [--encoder FOLDER]   # reads $JAXDEPTH_DATA/xstest

MODEL is the converted checkpoint that the built-in adapters belong to. To the point are answers
that people labelled full compliance, and the model's own answers to benign prompts, each with its
prompt. Not to the point are the same answers with the prompt of another, and fluent texts of exits
that are too early to answer anything (at most 23/30 of the depth, adapters that speak there;
training prompts). The rule is fitted on half the prompts; the table is of the other half. Prints it
and writes jaxdepth/data. The rule with a sentence encoder is fitted where one is given, else kept.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import jaxdepth
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.refusal.coherence import judge_coherence
from jaxdepth.refusal.detector import detect_refusals
from jaxdepth.refusal.encoder import Encoder
from jaxdepth.refusal.reference import (
    NO_SCORES,
    Reference,
    ReplyScores,
    score_alone,
    score_given,
)
from jaxdepth.refusal.topic import WEIGHTS_FILE, features, is_scored, rule_of, rules
from jaxdepth.tune.tasks import read_tasks

LENGTHS = (16, 24, 48, 96)  # tokens that an answer is truncated to
PUBLISHED, OWN, SHALLOW = "published answers", "own answers", "early exits"
EXITS = (16, 18, 20, 22, 23)  # of 30 layers
DEPTH = 30
ADAPTERS = ("spoken", "depth_robust")
NEW_TOKENS = 24
STRENGTHS = (0.1, 1, 10)


class Sample(NamedTuple):
    """A reply with the prompt that it is read against."""

    kind: str
    held_out: bool
    prompt: str
    text: str
    to_the_point: bool


def published(tokenizer, folder: Path, count: int = 260) -> list[Sample]:
    """Truncated answers of other models, each with its prompt and with another's."""
    answers = []
    for path in sorted((folder / "xstest" / "completions").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["final_label"].startswith("1"):
                    held_out = bool(int(row["id"].rpartition("-")[2]) % 2)
                    answers.append((held_out, row["prompt"], row["completion"]))
    if not answers:
        sys.exit(f"no answers in {folder}/xstest/completions: expected a CSV file per model")
    return _with_other_prompts(PUBLISHED, tokenizer, answers, count)


def own(tokenizer, count: int = 160) -> list[Sample]:
    """The model's own answers to benign prompts, each with its prompt and with another's."""
    tasks = read_tasks(read_prompts(["builtin:pairs"]), "builtin", thoughts=False)["benign"]
    answers = [(n % 2 == 1, t.prompt, t.answers[0]) for n, t in enumerate(tasks)]
    return _with_other_prompts(OWN, tokenizer, answers, count)


def _with_other_prompts(
    kind: str, tokenizer, answers: list[tuple[bool, str, str]], count: int
) -> list[Sample]:
    rng = np.random.default_rng(0)
    samples = []
    for n in rng.permutation(len(answers))[:count]:
        held_out, prompt, answer = answers[n]
        ids = tokenizer(answer.strip(), add_special_tokens=False)["input_ids"]
        text = tokenizer.decode(ids[: rng.choice(LENGTHS)])
        others = [p for h, p, _ in answers if h == held_out and p != prompt]
        samples.append(Sample(kind, held_out, prompt, text, True))
        samples.append(Sample(kind, held_out, others[rng.integers(len(others))], text, False))
    return samples


def early_exits(reference: str, limit: int = 150) -> list[Sample]:
    """Fluent texts of early exits to training prompts that refuse nothing; none answers."""
    prompts = [p for p in read_prompts(["builtin:pairs/train"])][:96:2]
    samples: list[Sample] = []
    for adapter in ADAPTERS:
        model, tokenizer = jaxdepth.load(reference, adapter=f"builtin:{adapter}")
        encoder = PromptEncoder(tokenizer)
        depth = model.config.num_hidden_layers
        layers = [round(depth * e / DEPTH) for e in EXITS]
        found = []
        for batch in make_batches([encoder.encode(p.text) for p in prompts], 16):
            generated = jaxdepth.generate(
                model, batch.tokens_BS, batch.lengths_B, layers, NEW_TOKENS,
                stop_tokens=[tokenizer.eos_token_id],
            )  # fmt: skip
            for row, index in enumerate(batch.indices):
                for column in range(len(layers)):
                    ids = generated.tokens[row, column, : generated.lengths[row, column]]
                    text = tokenizer.decode(ids, skip_special_tokens=True)
                    held_out = bool(index // 2 % 2)
                    found.append(Sample(SHALLOW, held_out, prompts[index].text, text, False))
        found = list(dict.fromkeys(found))
        refusals = detect_refusals([s.text for s in found])
        loops = judge_coherence([s.text for s in found])
        fluent = [
            s
            for s, refusal, loop in zip(found, refusals, loops, strict=True)
            if refusal.p_refuse < 0.3 and not loop.degenerate
        ]
        rng = np.random.default_rng(0)
        samples += [fluent[n] for n in rng.permutation(len(fluent))[:limit]]
    return samples


def fit(samples: list[Sample], scores: list[ReplyScores]) -> dict:
    """The rule fitted on the samples that are not held out, both classes weighing the same.

    The strength of its regularisation is chosen on half of them, by the other half's AUROC.
    """
    rows = [n for n, s in enumerate(samples) if not s.held_out and is_scored(scores[n])]
    x_N2 = np.stack([features(scores[n]) for n in rows])
    y_N = np.array([samples[n].to_the_point for n in rows])
    inner_N = np.array([len(samples[n].prompt) % 2 for n in rows], bool)

    def rule(strength: float, chosen_N) -> LogisticRegression:
        model = LogisticRegression(C=strength, class_weight="balanced")
        return model.fit(x_N2[chosen_N], y_N[chosen_N])

    def auroc(strength: float) -> float:
        probability_N = rule(strength, inner_N).predict_proba(x_N2[~inner_N])[:, 1]
        return float(roc_auc_score(y_N[~inner_N], probability_N))

    fitted = rule(max(STRENGTHS, key=auroc), np.ones(len(rows), bool))
    return {
        "coefficients": [round(float(c), 4) for c in fitted.coef_[0]],
        "intercept": round(float(fitted.intercept_[0]), 4),
    }


def table(samples: list[Sample], scores: list[ReplyScores], rule: dict) -> list[str]:
    """Rows of a table: of the held-out samples, what share of each kind the rule calls what."""
    rows = [n for n, s in enumerate(samples) if s.held_out and is_scored(scores[n])]
    logit_N = np.array(
        [features(scores[n]) @ rule["coefficients"] + rule["intercept"] for n in rows]
    )
    kind_N = np.array([samples[n].kind for n in rows])
    y_N = np.array([samples[n].to_the_point for n in rows])
    lines = ["| kind | n | to the point, kept | not, told | AUROC |", "|---|---|---|---|---|"]
    for kind in (PUBLISHED, OWN, SHALLOW, "all"):
        of_N = (kind_N == kind) | (kind == "all")
        kept = f"{np.mean(logit_N[of_N & y_N] >= 0):.3f}" if (of_N & y_N).any() else ""
        told = f"{np.mean(logit_N[of_N & ~y_N] < 0):.3f}"
        auroc = f"{roc_auc_score(y_N[of_N], logit_N[of_N]):.3f}" if kept else ""
        lines.append(f"| {kind} | {of_N.sum()} | {kept} | {told} | {auroc} |")
    return lines


def read_samples(tokenizer, data: Path, checkpoint: str) -> list[Sample]:
    """All samples."""
    return [*published(tokenizer, data), *own(tokenizer), *early_exits(checkpoint)]


def score(reference: Reference, samples: list[Sample]) -> list[ReplyScores]:
    """The scores of the samples."""
    texts = [s.text for s in samples]
    alone = score_alone(reference, texts)
    return score_given(reference, texts, [s.prompt for s in samples], alone)


def by_rule(scores: list[ReplyScores]) -> list[list[ReplyScores]]:
    """The scores as each rule takes them: without those of a sentence encoder, and with them."""
    without = [s._replace(cosine=NO_SCORES.cosine) for s in scores]
    return [without] if np.isnan(scores[0].cosine) else [without, scores]


def measure(reference: Reference, tokenizer, data: Path, checkpoint: str) -> list[str]:
    """The tables of the rules that the package ships, on held-out prompts."""
    samples = [s for s in read_samples(tokenizer, data, checkpoint) if s.held_out]
    lines = []
    for scores in by_rule(score(reference, samples)):
        name = rule_of(scores[0])
        lines += [f"{name}:\n", *table(samples, scores, rules()[name]), ""]
    return lines


def main() -> None:
    """Fit and write the rules, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", required=True, help="the converted checkpoint")
    parser.add_argument("--encoder", help="a sentence encoder")
    arguments = parser.parse_args()
    data = os.environ.get("JAXDEPTH_DATA")
    if not data:
        sys.exit("JAXDEPTH_DATA is not set: point it at the folder that holds xstest")
    model, tokenizer = jaxdepth.load(arguments.reference)
    sentences = Encoder.open(arguments.encoder) if arguments.encoder else None
    reference = Reference(model, PromptEncoder(tokenizer), sentences)
    samples = read_samples(tokenizer, Path(data), arguments.reference)
    fitted = dict(rules())
    for scores in by_rule(score(reference, samples)):
        name = rule_of(scores[0])
        fitted[name] = fit(samples, scores)
        print(f"{name}, on held-out prompts:\n")
        print("\n".join(table(samples, scores, fitted[name])), "\n")
    path = Path(jaxdepth.__file__).parent / "data" / WEIGHTS_FILE
    path.write_text(json.dumps(fitted) + "\n", "utf-8")
    print(f"wrote {path.name}: {fitted}")


if __name__ == "__main__":
    main()
