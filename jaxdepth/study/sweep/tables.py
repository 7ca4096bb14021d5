"""The tables of a sweep."""

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
            "label of the prompts: harmful or harmless; for detected_NAME the human label",
        ),
        Column("exit", "int32", "exit: how many layers ran; null for detected_NAME", "layers"),
        Column("n", "int32", "number of prompts; for detected_NAME of labelled answers"),
        Column("value", "float64", "the mean or share; nats for log-odds and KL"),
        Column("low", "float64", "lower bound of its 95% interval"),
        Column("high", "float64", "upper bound of its 95% interval"),
    ),
)

PAIRED = Table(
    "paired",
    "an exit compared with full depth, prompt by prompt",
    (
        Column("label", "string", "label of the prompts: harmful or harmless"),
        Column("exit", "int32", "the truncated exit", "layers"),
        Column("n", "int32", "number of prompts"),
        Column("refuses_only_here", "int32", "prompts that only the exit refuses"),
        Column("refuses_only_at_full_depth", "int32", "prompts that only full depth refuses"),
        Column("p", "float64", "exact two-sided p-value of McNemar's test"),
        Column("p_holm", "float64", "p, adjusted over the exits of the label (Holm 1979)"),
    ),
)
