"""Measure the refusal detector on human labels, and fit the weights that the package ships.

    python tools/fit_refusal_detector.py        # reads $JAXDEPTH_DATA/xstest/completions

Every number is for answers of a model that was left out of the fit and of every choice: features,
design and thresholds are chosen inside the other models (tools/refusal_fit.py). Prints tables
beside their bars, then writes jaxdepth/data. Needs scikit-learn, which is in the test extra.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from refusal_answers import (
    NAMED_FILE,
    NAMES,
    PARTIAL,
    REFUSE,
    SHORT,
    Answer,
    hard_answers,
    read_answers,
)
from refusal_fit import (
    REFUSE_OVER,
    Choice,
    Design,
    Examples,
    HeldOut,
    choose_design,
    examples_of,
    fit,
    leave_one_model_out,
    weights_of,
)
from refusal_phrases import fit_phrases
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    precision_recall_curve,
    roc_auc_score,
)

import jaxdepth
from jaxdepth.refusal.detector import (
    BLOCKS,
    WEIGHTS_FILE,
    Detection,
    blocks,
    contains_refusal,
    detect,
    phrases,
    starts_with_refusal,
)

ATTRIBUTION = (
    "fitted on human labels of XSTest completions, Roettger et al. 2023, CC-BY-4.0, "
    "github.com/paul-rottger/xstest commit d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d, "
    "and on answers of our own"
)
# The bars of the table of refusal, and of hard answers.
BARS = {"kappa": 0.84, "kappa of each model": 0.75, "kappa at 24 tokens": 0.75, "hard": 0.90}
RESAMPLES = 1000


def labels_of(answers: Sequence[Answer]) -> np.ndarray:
    """The human labels, (N,)."""
    return np.array([a.label for a in answers])


def kappa_interval(answers: Sequence[Answer], refuses_N: np.ndarray) -> tuple[float, float]:
    """95% bounds of kappa of refusal by a percentile bootstrap; whole prompts are resampled."""
    truth_N = labels_of(answers) == REFUSE
    prompts, prompt_N = np.unique([a.prompt_id for a in answers], return_inverse=True)
    cell_N = 2 * truth_N + refuses_N  # the cell of the confusion matrix
    counts_PC = np.zeros((len(prompts), 4))
    np.add.at(counts_PC, (prompt_N, cell_N), 1)
    rng = np.random.default_rng(0)
    times_RP = rng.multinomial(len(prompts), np.full(len(prompts), 1 / len(prompts)), RESAMPLES)
    cells_RC = times_RP @ counts_PC / len(answers)
    cells_RC /= cells_RC.sum(1, keepdims=True)
    agree_R = cells_RC[:, 0] + cells_RC[:, 3]
    truth_R, said_R = cells_RC[:, 2] + cells_RC[:, 3], cells_RC[:, 1] + cells_RC[:, 3]
    chance_R = truth_R * said_R + (1 - truth_R) * (1 - said_R)
    low, high = np.percentile((agree_R - chance_R) / (1 - chance_R), [2.5, 97.5])
    return float(low), float(high)


def refusal_rows(answers: Sequence[Answer], p_N: np.ndarray) -> dict[str, dict]:
    """Kappa with interval, AUROC and F1 of refusal against the rest, by model and pooled."""
    truth_N, source_N = labels_of(answers) == REFUSE, np.array([a.source for a in answers])
    rows = {}
    for source in (*sorted(set(source_N)), "pooled"):
        of_N = (source_N == source) | (source == "pooled")
        refuses_N = p_N[of_N] > REFUSE_OVER
        members = [a for a, member in zip(answers, of_N, strict=True) if member]
        best = max(
            cohen_kappa_score(truth_N[of_N], p_N[of_N] > t) for t in np.arange(0.1, 0.9, 0.02)
        )
        rows[source] = {
            "n": int(of_N.sum()),
            "kappa": cohen_kappa_score(truth_N[of_N], refuses_N),
            "interval": kappa_interval(members, refuses_N),
            "best kappa": best,
            "auroc": roc_auc_score(truth_N[of_N], p_N[of_N]),
            "f1": f1_score(truth_N[of_N], refuses_N),
        }
    return rows


def print_refusal(answers: Sequence[Answer], p_N: np.ndarray) -> None:
    """The table of `refusal_rows`."""
    print("| left-out model | n | kappa [95%] | kappa at its best threshold | AUROC | F1 |")
    print("|---|---|---|---|---|---|")
    for source, row in refusal_rows(answers, p_N).items():
        low, high = row["interval"]
        cells = [f"{row['kappa']:.3f} [{low:.3f}, {high:.3f}]"]
        cells += [f"{row[key]:.3f}" for key in ("best kappa", "auroc", "f1")]
        print(f"| {source} | {row['n']} | {' | '.join(cells)} |")


def print_partial(answers: Sequence[Answer], held_out: HeldOut) -> None:
    """Average precision of partial, its curve, and the operating point."""
    is_partial_N, source_N = labels_of(answers) == PARTIAL, np.array([a.source for a in answers])
    p_N = held_out.partial_N
    print("| left-out model | base rate | average precision |\n|---|---|---|")
    for source in (*sorted(set(source_N)), "pooled"):
        of_N = (source_N == source) | (source == "pooled")
        score = average_precision_score(is_partial_N[of_N], p_N[of_N])
        print(f"| {source} | {is_partial_N[of_N].mean():.3f} | {score:.3f} |")
    precision, recall, _ = precision_recall_curve(is_partial_N, p_N)
    best = [precision[recall >= r].max() for r in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)]
    print("\n| recall | 0.1 | 0.2 | 0.3 | 0.4 | 0.5 | 0.7 |\n|---|---|---|---|---|---|---|")
    print(f"| precision | {' | '.join(f'{p:.2f}' for p in best)} |")
    said_N = held_out.outcome_N == PARTIAL
    hits = (said_N & is_partial_N).sum()
    print(f"\nat the thresholds chosen inside: precision {hits / said_N.sum():.3f}, ", end="")
    print(f"recall {hits / is_partial_N.sum():.3f}")


def held_out_counts(answers: Sequence[Answer], held_out: HeldOut) -> dict[str, dict[str, int]]:
    """Counts of outcomes by human label."""
    label_N, outcome_N = labels_of(answers), held_out.outcome_N
    return {
        label: {o: int(((label_N == a) & (outcome_N == b)).sum()) for o, b in NAMES.items()}
        for label, a in NAMES.items()
    }


def detection(answer: Answer, weights: dict) -> Detection:
    """What the detector says of an answer with some weights."""
    return detect(blocks(answer.text, answer.prompt), phrases(answer.text), weights)


def hard_accuracy(weights: dict, half: str = "held-out") -> dict[str, tuple[int, int]]:
    """Hard answers rightly told (refusal against the rest) of how many, by kind and "all"."""
    counts = {}
    for answer in hard_answers(half):
        p_refuse = detection(answer, weights).p_refuse
        right = (p_refuse > REFUSE_OVER) == (answer.label == REFUSE)
        for kind in (answer.kind, "all"):
            hits, total = counts.get(kind, (0, 0))
            counts[kind] = hits + int(right), total + 1
    return counts


def print_hard(weights: dict) -> None:
    """Accuracy on the held-out half of our own hard answers, by kind."""
    print("| kind | right | of |\n|---|---|---|")
    for kind, (right, total) in sorted(hard_accuracy(weights).items(), key=lambda k: k[0] == "all"):
        print(f"| {kind} | {right} | {total} |")
    answers = hard_answers("held-out")
    p_N = np.array([detection(a, weights).p_refuse for a in answers])
    right_N = (p_N > REFUSE_OVER) == (labels_of(answers) == REFUSE)
    whole_N = labels_of(answers) != PARTIAL
    named = hard_answers("held-out", NAMED_FILE)
    said_N = np.array([detection(a, weights).p_refuse > REFUSE_OVER for a in named])
    refuses_N = labels_of(named) == REFUSE
    found, taken = said_N[refuses_N].mean(), said_N[~refuses_N].mean()
    print("\nRefusals that name what they decline, in wordings that nothing was fitted on:")
    print(
        f"{found:.3f} of {refuses_N.sum()} found; {taken:.3f} of {(~refuses_N).sum()} others taken"
    )
    error = 1.96 * np.sqrt(right_N.mean() * (1 - right_N.mean()) / len(answers))
    print(f"\nall: {right_N.mean():.3f} +- {error:.3f} (bar {BARS['hard']:.2f}); ", end="")
    print(f"without partial ones {right_N[whole_N].mean():.3f}; ", end="")
    print(f"AUROC {roc_auc_score(labels_of(answers) == REFUSE, p_N):.3f}")


def print_breakage(answers: Sequence[Answer], held_out: HeldOut) -> None:
    """How many refusals are still found when the text is whole, truncated or broken."""
    refuses_N = labels_of(answers) == REFUSE
    print("| text | kappa | sensitivity to refusals | specificity |\n|---|---|---|---|")
    texts = {"whole": held_out.refuse_N, f"first {SHORT} words": held_out.short_N}
    texts |= {"derailed after a few words": held_out.derailed_N}
    for name, p_N in texts.items():
        said_N = p_N > REFUSE_OVER
        kappa = cohen_kappa_score(refuses_N, said_N)
        right = said_N[refuses_N].mean(), 1 - said_N[~refuses_N].mean()
        print(f"| {name} | {kappa:.3f} | {right[0]:.3f} | {right[1]:.3f} |")
    print(f"| looping | | | {(held_out.looping_N <= REFUSE_OVER).mean():.3f} |")


def fit_shipped(examples: Examples, choice: Choice) -> dict:
    """The weights of a fit on all models and the fit half of our own answers."""
    members = np.arange(len(examples.answers))
    fitted = fit(examples, members, choice.design, choice.partial_strength)
    thresholds = {"thresholds": [REFUSE_OVER, choice.partial_from]}
    by_phrases = fit_phrases(examples.answers, members, choice.phrase_strength).weights
    weights = weights_of(examples, fitted) | {"phrases": by_phrases}
    return {"attribution": ATTRIBUTION} | thresholds | weights


def read_choice(record: dict) -> Choice:
    """A choice as it stands in the weights' file."""
    scales, *rest, variants = record["design"]
    design = Design(tuple(scales), *rest, tuple(variants))
    return Choice(**(record | {"design": design}))


def _print_choice(source: str, choice: Choice) -> None:
    design = choice.design
    print(f"- {source}: blocks scaled {design.scales}, C {design.strength}, ", end="")
    print(
        f"partial answers weigh {design.partial_weight}, {len(design.variants)} variants; ", end=""
    )
    print(f"C of partial {choice.partial_strength}, of phrases {choice.phrase_strength}, ", end="")
    print(f"partial from {choice.partial_from}")


def measure(data: Path) -> dict:
    """Print all tables; returns the weights of the fit on all models."""
    answers = read_answers(data / "xstest" / "completions")
    if not answers:
        sys.exit(f"no answers in {data}/xstest/completions: expected a CSV file per model")
    examples = examples_of(answers)
    sources = sorted({a.source for a in answers})
    choices = {s: choose_design(examples, [o for o in sources if o != s]) for s in sources}
    print("Chosen for each left-out model by the other two:\n")
    for source, choice in choices.items():
        _print_choice(source, choice)
    held_out = leave_one_model_out(examples, choices)
    disjoint = leave_one_model_out(examples, choices, shared_prompts=False)
    print(f"\nFull refusal against the rest (bars: pooled {BARS['kappa']}, ", end="")
    print(f"each {BARS['kappa of each model']}):\n")
    print_refusal(answers, held_out.refuse_N)
    whole_N = labels_of(answers) != PARTIAL
    kappa = cohen_kappa_score(
        labels_of(answers)[whole_N] == REFUSE, held_out.refuse_N[whole_N] > REFUSE_OVER
    )
    print(f"\nWithout the {(~whole_N).sum()} answers labelled partial: pooled kappa {kappa:.3f}")
    print("\nThe same, with no training answer to the same prompt:\n")
    print_refusal(answers, disjoint.refuse_N)
    print(f"\nThe first {SHORT} words, about 24 tokens ", end="")
    print(f"(bar: pooled {BARS['kappa at 24 tokens']}):\n")
    print_refusal(answers, held_out.short_N)
    print("\nPhrase lists:\n")
    for name, rule in (("start", starts_with_refusal), ("anywhere", contains_refusal)):
        said_N = np.array([rule(a.text) for a in answers])
        print(f"- {name}: kappa {cohen_kappa_score(labels_of(answers) == REFUSE, said_N):.3f}")
    print("\nWhole, truncated and broken texts:\n")
    print_breakage(answers, held_out)
    print("\nPartial:\n")
    print_partial(answers, held_out)
    print(f"\n| label, outcome: | {' | '.join(NAMES)} |\n|---|---|---|---|")
    for label, counts in held_out_counts(answers, held_out).items():
        print(f"| {label} | {' | '.join(map(str, counts.values()))} |")
    choice = choose_design(examples, sources)
    print("\nChosen by all three:\n")
    _print_choice("shipped", choice)
    weights = fit_shipped(examples, choice) | {"held_out": held_out_counts(answers, held_out)}
    records = {source: made._asdict() for source, made in (choices | {"shipped": choice}).items()}
    weights["choices"] = records
    print("\nOur own hard answers, the half that nothing was fitted or chosen on:\n")
    print_hard(weights)
    return weights


def main() -> None:
    """Print the tables and write the weights."""
    data = os.environ.get("JAXDEPTH_DATA")
    if not data:
        sys.exit("JAXDEPTH_DATA is not set: point it at the folder that holds xstest/completions")
    weights = measure(Path(data))
    path = Path(jaxdepth.__file__).parent / "data" / WEIGHTS_FILE
    path.write_text(json.dumps(weights, separators=(",", ":")) + "\n", "utf-8")
    features = sum(len(weights[block]) for block in BLOCKS)
    features += len(weights["phrases"]["known"])
    print(f"\nwrote {path.name}: {features} features, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
