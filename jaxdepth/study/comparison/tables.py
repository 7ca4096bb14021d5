"""The table of a comparison of models."""

from jaxdepth.study.labelling.tables import CORRECTED_RATE
from jaxdepth.study.sweep.tables import WINDOWS
from jaxdepth.study.tables import Column, Table

COMPARISON = Table(
    "comparison",
    "the share of an outcome by model, group of prompts and exit",
    (
        Column("model", "string", "name of the model"),
        Column("group", "string", "source and label of the prompts"),
        Column("exit", "int32", "exit: how many layers ran", "layers"),
        Column(
            "outcome", "string", "refuse, partial, comply, off-topic, degenerate or undetermined"
        ),
        Column("n", "int32", "number of prompts"),
        Column("value", "float64", "share of answers with that outcome"),
        Column(
            "low",
            "float64",
            "lower bound of its 95% interval (Wilson); none of fewer than 10 prompts",
        ),
        Column("high", "float64", "upper bound of the same"),
        *CORRECTED_RATE,
    ),
)

COMPARED_WINDOWS = Table(
    "windows",
    "an exit of a model: whether it can answer at all, and whether it answers harmful prompts",
    (Column("model", "string", "name of the model"), *WINDOWS.columns),
)
