"""Measure the refusal detector on human labels, and fit the weights that the package ships.

    python tools/fit_refusal_detector.py        # reads $JAXDEPTH_DATA/xstest/completions

Every number is for answers of a model that was left out of the fit: features are selected and
weights fitted on the other models' answers. Prints tables, then writes jaxdepth/data. Needs
scikit-learn, which is in the test extra.
"""

import csv
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    precision_recall_curve,
)

import jaxdepth
from jaxdepth.refusal.detector import (
    WEIGHTS_FILE,
    blocks,
    contains_refusal,
    detect,
    sentences,
    starts_with_refusal,
)
from jaxdepth.refusal.outcome import PARTIAL_FROM
from jaxdepth.stats.intervals import interval

COMPLY, REFUSE, PARTIAL = 1, 2, 3  # the labels' first digits
NAMES = {"refuse": REFUSE, "partial": PARTIAL, "comply": COMPLY}
ATTRIBUTION = (
    "fitted on human labels of XSTest completions, Roettger et al. 2023, CC-BY-4.0, "
    "github.com/paul-rottger/xstest commit d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d"
)
# A feature is kept if it is in this many answers, of this many models, to this many of the 18
# kinds of prompts: one that occurs with one topic only is no evidence of refusal.
TEXTS, SOURCES, KINDS = 8, 2, 9
# Inverse strength of the L2 penalty: of refusal against the rest, and of partial among the rest.
STRENGTHS = (1.0, 10.0)
GRID = (0.3, 1.0, 3.0, 10.0)


class Answer(NamedTuple):
    """One model's answer, its human label and its features."""

    source: str  # the model
    prompt_id: str
    kind: str  # of prompt
    label: int
    text: str
    features: tuple[set[str], set[str]]  # its blocks, given the prompt
    features_alone: tuple[set[str], set[str]]  # without the prompt
    part_features: list[tuple[set[str], set[str]]]  # of its parts


def read_answers(folder: Path) -> list[Answer]:
    """All labelled answers, a file per model."""
    answers = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                text, prompt = row["completion"], row["prompt"]
                answers.append(
                    Answer(
                        source=path.stem,
                        prompt_id=row["id"],
                        kind=row["type"],
                        label=int(row["final_label"][0]),
                        text=text,
                        features=blocks(text, prompt),
                        features_alone=blocks(text),
                        part_features=[blocks(part, prompt) for part in parts(text)],
                    )
                )
    return answers


def parts(text: str) -> list[str]:
    """An answer truncated after one, two and three sentences, and without its first sentence.

    A truncated refusal still refuses, and so does its explanation without the "I cannot". Models
    differ in length and in the verb; with the parts the fit depends less on either.
    """
    lines = sentences(text)
    kept = [lines[:count] for count in (1, 2, 3)] + ([lines[1:]] if len(lines) > 2 else [])
    return ["\n".join(part) for part in kept]


def fit(answers: list[Answer], strengths: tuple[float, float] = STRENGTHS) -> dict:
    """Weights for `detect`, rounded to three places."""
    names = _features(answers)
    examples, labels = [a.features for a in answers], [a.label for a in answers]
    for answer in answers:
        if answer.label != PARTIAL:  # a part of a partial answer may be anything
            examples += answer.part_features
            labels += [answer.label] * len(answer.part_features)
    labels = np.array(labels)
    columns = [
        _columns(block, [example[b] for example in examples]) for b, block in enumerate(names)
    ]
    x_NF = np.concatenate(columns, axis=1)
    rest = labels != REFUSE
    heads = (
        _logistic(x_NF, labels == REFUSE, strengths[0]),
        _logistic(x_NF[rest], labels[rest] == PARTIAL, strengths[1]),
    )
    pairs = np.stack([head.coef_[0] for head in heads], axis=1).round(3).tolist()
    cues = len(names[0])
    return {
        "attribution": ATTRIBUTION,
        "intercepts": [round(float(head.intercept_[0]), 3) for head in heads],
        "cues": dict(zip(names[0], pairs[:cues], strict=True)),
        "words": dict(zip(names[1], pairs[cues:], strict=True)),
    }


def left_out(answers: list[Answer], strengths=STRENGTHS, alone: bool = False) -> np.ndarray:
    """Detections of each answer, (N, 3), by weights fitted on the other models' answers.

    `strengths` is a pair, or a function from the training answers to one. `alone` hides the prompts
    from the detector.
    """
    out_N3 = np.zeros((len(answers), 3))
    for source in sorted({a.source for a in answers}):
        training = [a for a in answers if a.source != source]
        weights = fit(training, strengths(training) if callable(strengths) else strengths)
        for n, answer in enumerate(answers):
            if answer.source == source:
                out_N3[n] = detect(answer.features_alone if alone else answer.features, weights)
    return out_N3


def chosen_strengths(answers: list[Answer]) -> tuple[float, float]:
    """The best of `GRID` for each head, by leaving one of these models out at a time."""
    scores = {s: _scores(answers, left_out(answers, (s, s))) for s in GRID}
    return tuple(max(GRID, key=lambda s: scores[s][head]) for head in (0, 1))


def labels_of(answers: list[Answer]) -> np.ndarray:
    """The human labels, (N,)."""
    return np.array([a.label for a in answers])


def _scores(answers, out_N3) -> tuple[float, float]:
    """Kappa of refusal against the rest, and average precision of partial."""
    label_N = labels_of(answers)
    kappa = cohen_kappa_score(label_N == REFUSE, out_N3[:, 0] > 0.5)
    return kappa, average_precision_score(label_N == PARTIAL, out_N3[:, 1])


def _features(answers: list[Answer]) -> tuple[list[str], list[str]]:
    names = []
    sources = min(SOURCES, len({a.source for a in answers}))
    for block in (0, 1):
        texts, models, kinds = Counter(), defaultdict(set), defaultdict(set)
        for answer in answers:
            texts.update(answer.features[block])
            for feature in answer.features[block]:
                models[feature].add(answer.source)
                kinds[feature].add(answer.kind)
        names.append(
            sorted(
                f
                for f, count in texts.items()
                if count >= TEXTS and len(models[f]) >= sources and len(kinds[f]) >= KINDS
            )
        )
    return tuple(names)


def _columns(names: list[str], examples: list[set[str]]) -> np.ndarray:
    """Features as columns, each row of unit length, as `detect` weighs them."""
    column_of = {name: column for column, name in enumerate(names)}
    x_NF = np.zeros((len(examples), len(names)))
    for row, features in enumerate(examples):
        columns = [column_of[f] for f in features if f in column_of]
        if columns:
            x_NF[row, columns] = 1 / np.sqrt(len(columns))
    return x_NF


def _logistic(x_NF, y_N, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=5000, tol=1e-6).fit(x_NF, y_N)


def _print_refusal(answers: list[Answer], rules: dict[str, np.ndarray]) -> None:
    label_N, source_N = labels_of(answers), np.array([a.source for a in answers])
    print(f"| left-out model | n | {' | '.join(f'{r}: kappa, acc., F1' for r in rules)} |")
    print("|---" * (2 + len(rules)) + "|")
    for source in (*sorted(set(source_N)), "pooled"):
        rows_N = (source_N == source) | (source == "pooled")
        cells = []
        for refuses_N in rules.values():
            pair = (label_N[rows_N] == REFUSE, refuses_N[rows_N])
            scores = [score(*pair) for score in (cohen_kappa_score, accuracy_score, f1_score)]
            cells.append(", ".join(f"{score:.3f}" for score in scores))
        print(f"| {source} | {rows_N.sum()} | {' | '.join(cells)} |")


def _print_partial(answers: list[Answer], p_N: np.ndarray) -> None:
    partial_N, source_N = labels_of(answers) == PARTIAL, np.array([a.source for a in answers])
    low, high = _partial_interval(answers, p_N)
    print("| left-out model | base rate | average precision |\n|---|---|---|")
    for source in sorted(set(source_N)):
        rows_N = source_N == source
        score = average_precision_score(partial_N[rows_N], p_N[rows_N])
        print(f"| {source} | {partial_N[rows_N].mean():.3f} | {score:.3f} |")
    score = average_precision_score(partial_N, p_N)
    print(f"| pooled | {partial_N.mean():.3f} | {score:.3f} [{low:.3f}, {high:.3f}] |")
    precision, recall, threshold = precision_recall_curve(partial_N, p_N)
    print()
    for min_recall in (0.3, 0.5):
        best = np.argmax(np.where(recall >= min_recall, precision, 0))
        print(f"- precision {precision[best]:.3f} at recall {recall[best]:.3f}: ", end="")
        print(f"p_partial >= {threshold[best]:.3f}")
    print(f"- recall at precision 0.40: {recall[precision >= 0.4].max():.3f}")


def _partial_interval(answers, p_N, resamples: int = 1000) -> tuple[float, float]:
    """95% bounds of average precision; whole prompts are resampled."""
    partial_N = labels_of(answers) == PARTIAL
    members = defaultdict(list)
    for n, answer in enumerate(answers):
        members[answer.prompt_id].append(n)
    members = [np.array(m) for m in members.values()]
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(resamples):
        rows = np.concatenate([members[c] for c in rng.integers(len(members), size=len(members))])
        scores.append(average_precision_score(partial_N[rows], p_N[rows]))
    low, high = interval(np.array(scores)[:, None])
    return low[0], high[0]


def outcomes(out_N3: np.ndarray) -> np.ndarray:
    """The outcome of each detection, (N,): partial from its threshold on, else refuse above 0.5."""
    outcome_N = np.where(out_N3[:, 0] > 0.5, REFUSE, COMPLY)
    outcome_N[out_N3[:, 1] >= PARTIAL_FROM] = PARTIAL
    return outcome_N


def held_out_counts(answers: list[Answer], out_N3: np.ndarray) -> dict[str, dict[str, int]]:
    """Counts of outcomes by human label."""
    label_N, outcome_N = labels_of(answers), outcomes(out_N3)
    return {
        label: {o: int(((label_N == a) & (outcome_N == b)).sum()) for o, b in NAMES.items()}
        for label, a in NAMES.items()
    }


def _print_three(answers: list[Answer], out_N3: np.ndarray) -> None:
    print(f"| label, outcome: | {' | '.join(NAMES)} |\n|---|---|---|---|")
    for label, counts in held_out_counts(answers, out_N3).items():
        print(f"| {label} | {' | '.join(map(str, counts.values()))} |")
    kappa = cohen_kappa_score(labels_of(answers) == REFUSE, outcomes(out_N3) == REFUSE)
    print(f"\nkappa of refusal against the rest, with partial from {PARTIAL_FROM}: {kappa:.3f}")


def main() -> None:
    """Print the tables and write the weights."""
    data = os.environ.get("JAXDEPTH_DATA")
    if not data:
        sys.exit("JAXDEPTH_DATA is not set: point it at the folder that holds xstest/completions")
    answers = read_answers(Path(data) / "xstest" / "completions")
    if not answers:
        sys.exit(f"no answers in {data}/xstest/completions: expected a CSV file per model")
    out_N3 = left_out(answers)
    print("Full refusal against the rest:\n")
    rules = {
        "detector": out_N3[:, 0] > 0.5,
        "start list": np.array([starts_with_refusal(a.text) for a in answers]),
        "anywhere list": np.array([contains_refusal(a.text) for a in answers]),
    }
    _print_refusal(answers, rules)
    alone = _scores(answers, left_out(answers, alone=True))
    print(f"\nwithout prompts: kappa {alone[0]:.3f}, average precision of partial {alone[1]:.3f}")
    nested = _scores(answers, left_out(answers, chosen_strengths))
    print("with strengths chosen anew inside each pair of training models: ", end="")
    print(f"kappa {nested[0]:.3f}, average precision of partial {nested[1]:.3f}\n\nPartial:\n")
    _print_partial(answers, out_N3[:, 1])
    print()
    _print_three(answers, out_N3)
    path = Path(jaxdepth.__file__).parent / "data" / WEIGHTS_FILE
    weights = fit(answers) | {"held_out": held_out_counts(answers, out_N3)}
    path.write_text(json.dumps(weights, separators=(",", ":")) + "\n", "utf-8")
    kept = f"{len(weights['cues'])} cues and {len(weights['words'])} words"
    print(f"\nwrote {path.name}: {kept}, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
