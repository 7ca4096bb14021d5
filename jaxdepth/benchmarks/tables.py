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
    ),
)
