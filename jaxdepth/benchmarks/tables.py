"""The table of `jaxdepth evaluate`: the metrics of every task at every exit."""

from jaxdepth.study.common_tables import EXIT
from jaxdepth.study.tables import Column, Table

SCORES = Table(
    "scores",
    "a metric of a task at an exit",
    (
        Column("task", "string", "the task, as its library names it"),
        EXIT,
        Column("scorer", "string", "the scorer (Inspect) or the filter (lm-eval) of the metric"),
        Column("metric", "string", "the metric, as its library names it"),
        Column("value", "float64", "its value, as its library computed it"),
        Column(
            "low",
            "float64",
            "lower bound of a 95% interval: of shares of samples Wilson's, of other means by the "
            "library's standard error; null where neither is to be had, or samples are fewer "
            "than 10",
        ),
        Column("high", "float64", "upper bound of it"),
        Column("n", "int32", "samples"),
        Column("is_group", "bool", "whether it is a group of tasks; null of Inspect"),
        Column("chance", "float64", "the accuracy of guessing; null where it is not known"),
        Column("higher_is_better", "bool", "whether a larger value is better; null if not known"),
        Column(
            "minus_full",
            "float64",
            "the value minus full depth's; null at full depth, where it did not run, and of "
            "statistics that are neither means nor perplexities",
        ),
        Column(
            "minus_full_low",
            "float64",
            "lower bound of its 95% interval: a bootstrap of the differences sample by sample",
        ),
        Column("minus_full_high", "float64", "upper bound of it"),
    ),
)
