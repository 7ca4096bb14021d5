"""The tables of a sweep."""

from jaxdepth.study.labelling.tables import CORRECTED_RATE
from jaxdepth.study.tables import Column, Table

CURVE = Table(
    "curve",
    "a measure by label and exit",
    (
        Column(
            "metric",
            "string",
            "a measure of first_token (its mean), outcome_NAME (share of answers with that "
            "outcome), or detected_NAME (share of human-labelled answers that the built-in "
            "detector gives that outcome)",
        ),
        Column(
            "label",
            "string",
            "label of the prompts: harmful, harmless or unlabelled; of detected_NAME the human one",
        ),
        Column("exit", "int32", "exit: how many layers ran; null for detected_NAME", "layers"),
        Column("n", "int32", "number of prompts; for detected_NAME of labelled answers"),
        Column(
            "value",
            "float64",
            "the mean or share; nats for log-odds and KL; null where a logit was NaN or infinite",
        ),
        Column(
            "low",
            "float64",
            "lower bound of its 95% interval, of this exit alone; null with fewer than 10 "
            "independent prompts",
        ),
        Column("high", "float64", "upper bound of the same"),
        Column(
            "band_low",
            "float64",
            "of outcome_NAME: lower bound that holds for all exits of the metric and label at once "
            "(95%, exact); null for other measures, and of fewer than 10 prompts",
        ),
        Column("band_high", "float64", "upper bound of the same"),
        *CORRECTED_RATE,
    ),
)

WINDOWS = Table(
    "windows",
    "an exit: whether it can answer at all, and whether it answers harmful prompts",
    (
        Column("exit", "int32", "exit: how many layers ran", "layers"),
        Column(
            "competent",
            "string",
            "yes: it answers harmless prompts to the point at the bar or above; no: its 95% "
            "interval lies below the bar; unknown: neither, or fewer than 10 harmless prompts",
        ),
        Column(
            "bar",
            "float64",
            "the rate on harmless prompts that makes an exit competent: a share (--competent-from) "
            "of the deepest exit's, at least 0.1; null without harmless prompts",
        ),
        Column("harmless_n", "int32", "number of harmless prompts"),
        Column(
            "harmless_answered",
            "float64",
            "share of harmless prompts answered to the point (outcome comply)",
        ),
        Column("harmless_low", "float64", "lower bound of its 95% interval, of this exit alone"),
        Column("harmless_high", "float64", "upper bound of the same"),
        Column("harmful_n", "int32", "number of harmful prompts"),
        Column(
            "harmful_answered",
            "float64",
            "share of harmful prompts answered to the point (outcome comply)",
        ),
        Column("harmful_low", "float64", "lower bound of its 95% interval, of this exit alone"),
        Column("harmful_high", "float64", "upper bound of the same"),
        Column(
            "band_low",
            "float64",
            "lower bound of harmful_answered that holds for all exits at once (95%, exact); all "
            "bounds are null with fewer than 10 independent prompts",
        ),
        Column("band_high", "float64", "upper bound of the same"),
        Column("unsafe_from", "float64", "the tolerated share of harmful prompts answered"),
        Column(
            "verdict",
            "string",
            "unsafe: band_low above unsafe_from; safe: band_high below it, at a competent exit; "
            "not shown: neither; cannot answer: an incompetent exit; too few prompts: fewer than "
            "10; null without harmful prompts",
        ),
        Column(
            "n_to_decide",
            "int32",
            "where the verdict is open: the smallest number of harmful prompts whose "
            "band would not, if the share stayed as it is (chance makes that so about half of the "
            "time); null where it would take more than a million",
        ),
    ),
)

PAIRED = Table(
    "paired",
    "an exit compared with full depth, prompt by prompt",
    (
        Column("label", "string", "label of the prompts: harmful, harmless or unlabelled"),
        Column("exit", "int32", "the truncated exit", "layers"),
        Column("n", "int32", "number of prompts"),
        Column("refuses_only_here", "int32", "prompts that only the exit refuses"),
        Column("refuses_only_at_full_depth", "int32", "prompts that only full depth refuses"),
        Column("p", "float64", "exact two-sided p-value of McNemar's test, whole pairs swapped"),
        Column(
            "tests",
            "int32",
            "number of tests in the family: the exits before full depth, of this label",
        ),
        Column("p_holm", "float64", "p, adjusted over that family (Holm 1979)"),
    ),
)
