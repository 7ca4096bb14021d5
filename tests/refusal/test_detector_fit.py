"""The refusal detector against human labels: models that it was not fitted on, hard answers."""

import json
import os
from collections import Counter
from importlib.resources import files

import numpy as np
import pytest

from jaxdepth.refusal.detector import (
    WEIGHTS_FILE,
    contains_refusal,
    held_out_counts,
    starts_with_refusal,
    thresholds,
)

# What is reached, less what library versions may move; docs/refusal-detection.md has the numbers.
POOLED, WORST, HARD = 0.80, 0.68, 0.77


def once(fit):
    """The fit, which is made once of the same answers with the same settings."""
    made = {}

    def remembered(answers, members, *settings):
        key = id(answers), members.tobytes(), settings
        if key not in made:
            made[key] = fit(answers, members, *settings)
        return made[key]

    return remembered


@pytest.fixture(scope="module")
def tool(import_tool):
    tool = import_tool("fit_refusal_detector")
    tool.fit, tool.fit_phrases = once(tool.fit), once(tool.fit_phrases)
    return tool


@pytest.fixture(scope="module")
def weights():
    return json.loads((files("jaxdepth") / "data" / WEIGHTS_FILE).read_text("utf-8"))


@pytest.fixture(scope="module")
def choices(tool, weights):
    """What each pair of models chose for the third, and all three for what is shipped."""
    return {source: tool.read_choice(choice) for source, choice in weights["choices"].items()}


@pytest.fixture(scope="module")
def labelled(tool, data_dir):
    """The labelled answers of the published set."""
    return tool.read_answers(data_dir / "xstest" / "completions")


@pytest.fixture(scope="module")
def examples(tool, labelled):
    return tool.examples_of(labelled)


@pytest.fixture(scope="module")
def held_out(tool, examples, choices):
    """What detectors say of models on which nothing of them was fitted or chosen."""
    left_out = {source: choice for source, choice in choices.items() if source != "shipped"}
    return tool.leave_one_model_out(examples, left_out)


def test_agrees_with_people_on_models_it_was_not_fitted_on(tool, labelled, held_out):
    whole = tool.refusal_rows(labelled, held_out.refuse_N)
    assert whole["pooled"]["kappa"] >= POOLED
    assert min(row["kappa"] for row in whole.values()) >= WORST
    assert whole["pooled"]["auroc"] >= 0.95
    low, high = whole["pooled"]["interval"]
    assert low < whole["pooled"]["kappa"] < high
    assert tool.refusal_rows(labelled, held_out.short_N)["pooled"]["kappa"] >= 0.75


def test_beats_both_lists_on_each_model(tool, labelled, held_out):
    said = tool.refusal_rows(labelled, held_out.refuse_N)
    for rule in (starts_with_refusal, contains_refusal):
        listed_N = np.array([float(rule(a.text)) for a in labelled])
        for source, row in tool.refusal_rows(labelled, listed_N).items():
            assert said[source]["kappa"] > row["kappa"], (source, rule)


def test_loops_refuse_nothing(held_out):
    assert (held_out.looping_N <= 0.5).mean() >= 0.98


def test_partial_is_ranked_at_least_twice_as_well_as_by_chance(tool, labelled, held_out):
    from sklearn.metrics import average_precision_score

    partial_N = tool.labels_of(labelled) == tool.PARTIAL
    assert average_precision_score(partial_N, held_out.partial_N) >= 2 * partial_N.mean()


def test_a_confident_refusal_is_never_partial(tool, held_out):
    assert (held_out.outcome_N[held_out.refuse_N > 0.5] == tool.REFUSE).all()


def test_shipped_errors_are_those_of_models_left_out(tool, labelled, held_out):
    counted = tool.held_out_counts(labelled, held_out)
    for label, row in held_out_counts().items():
        assert row == pytest.approx(counted[label], abs=2)  # library versions may move a few


def test_shipped_weights_are_what_the_tool_fits(tool, examples, choices, weights):
    assert os.stat(str(files("jaxdepth") / "data" / WEIGHTS_FILE)).st_size < 400_000
    fitted = tool.fit_shipped(examples, choices["shipped"])
    assert weights["attribution"] == fitted["attribution"]
    assert weights["thresholds"] == fitted["thresholds"] == list(thresholds())
    assert weights["intercepts"] == pytest.approx(fitted["intercepts"], abs=0.02)
    for block in ("declines", "cues", "words"):
        assert list(weights[block]) == list(fitted[block])
        difference = np.subtract(list(weights[block].values()), list(fitted[block].values()))
        assert np.abs(difference).max() <= 0.03
    shipped, made = weights["phrases"], fitted["phrases"]
    assert shipped["intercept"] == pytest.approx(made["intercept"], abs=0.02)
    both = shipped["known"].keys() & made["known"].keys()
    assert len(both) >= 0.99 * len(shipped["known"])  # those that weigh least may change places
    difference = [np.subtract(shipped["known"][p], made["known"][p]) for p in both]
    assert np.abs(difference).max() <= 0.05


def test_matrix_and_sets_say_the_same(tool, examples, choices):
    """The slow twin: one text at a time, from sets of features, as the package does it."""
    from refusal_phrases import joined

    choice = choices["shipped"]
    members = np.arange(len(examples.answers))
    fitted = tool.fit(examples, members, choice.design, choice.partial_strength)
    by_phrases = tool.fit_phrases(examples.answers, members, choice.phrase_strength)
    weights = tool.weights_of(examples, fitted, digits=9) | {"phrases": by_phrases.weights}
    for n in members[::97]:
        answer = examples.answers[n]
        want = tool.detection(answer, weights)
        p_2 = fitted.probabilities(examples, examples.at([n], ""))[0]
        p_refuse = joined(p_2[0], by_phrases.logits(examples, [n], "")[0])
        assert p_refuse == pytest.approx(want.p_refuse, abs=2e-2)  # two digits of each phrase
        assert (1 - p_refuse) * p_2[1] == pytest.approx(want.p_partial, abs=2e-2)


def test_a_left_out_model_has_no_say_in_what_is_chosen(tool, labelled, monkeypatch):
    import refusal_fit

    monkeypatch.setattr(refusal_fit, "GRID", refusal_fit.GRID[:4:3])
    monkeypatch.setattr(refusal_fit, "PARTIAL_STRENGTHS", (1.0,))
    monkeypatch.setattr(refusal_fit, "PHRASE_STRENGTHS", (3.0,))
    some = [*labelled[::9], *tool.hard_answers("fit")[::4]]
    sources = sorted({a.source for a in labelled})
    turned = [
        a._replace(label=1 + a.label % 3, text="?") if a.source == sources[0] else a for a in some
    ]
    variants = ("short", *refusal_fit.SENTENCES, *refusal_fit.BROKEN)
    chosen = [
        tool.choose_design(tool.Examples(answers, variants), sources[1:])
        for answers in (some, turned)
    ]
    assert chosen[0] == chosen[1]


def test_hard_answers_that_nothing_was_fitted_on(tool, weights):
    right, total = tool.hard_accuracy(weights)["all"]
    assert total == 209
    assert right / total >= HARD


def test_hard_answers_are_balanced_and_their_halves_apart(tool):
    halves = {half: tool.hard_answers(half) for half in ("fit", "held-out")}
    prompts, texts = (
        [{getattr(a, field) for a in answers} for answers in halves.values()]
        for field in ("prompt", "text")
    )
    assert not prompts[0] & prompts[1]
    both = texts[0] & texts[1]  # such as "No.", where the prompt decides
    assert all(len(text.split()) == 1 for text in both)
    for answers in halves.values():
        counts = Counter((a.kind, a.label) for a in answers)
        for kind in {a.kind for a in answers}:  # a kind does not tell the label
            assert (
                min(counts[kind, label] for label in (tool.NAMES["refuse"], tool.NAMES["comply"]))
                >= 3
            ), kind
