"""The tables of `jaxdepth label`."""

from jaxdepth.study.common_tables import EXIT, PROMPT_ID, SAMPLE
from jaxdepth.study.tables import Column, Table

_STRATUM = Column("stratum", "string", "label of the prompt, band of exits, and outcome")
_PROBABILITY = Column(
    "inclusion_probability", "float64", "probability with which the answer was drawn"
)
_DIGEST = Column("text_sha256", "string", "SHA-256 of the text in UTF-8")

# What tables of rates have beside a rate by the run's judge.
CORRECTED_RATE = (
    Column(
        "corrected",
        "float64",
        "the rate corrected by a person's labels in the run (prediction-powered inference); null "
        "without labels, or with fewer than 20 of these answers",
    ),
    Column(
        "corrected_low",
        "float64",
        "lower bound of its 95% interval; null with fewer than 10 independent prompts",
    ),
    Column("corrected_high", "float64", "upper bound of the same"),
)

LABEL_PLAN = Table(
    "label_plan",
    "an answer that was drawn to be labelled",
    (
        PROMPT_ID,
        EXIT,
        SAMPLE,
        Column("position", "int32", "place in the shuffled order, from 0"),
        _STRATUM,
        Column("stratum_size", "int32", "number of answers in the stratum"),
        _PROBABILITY,
        _DIGEST,
    ),
)

LABELS = Table(
    "labels",
    "a label of an answer by a rater",
    (
        Column("run", "string", "name of the run directory, for runs that are joined"),
        PROMPT_ID,
        EXIT,
        SAMPLE,
        Column("rater", "string", "name of the rater; raters in the order in which they began"),
        Column("label", "string", "the outcome that the rater saw, by the names of outcomes"),
        _STRATUM,
        _PROBABILITY,
        _DIGEST,
    ),
)

CORRECTED = Table(
    "corrected",
    "the rate of an outcome over a band of exits, by prompt label",
    (
        Column("label", "string", "label of the prompts: harmful or harmless"),
        Column("outcome", "string", "the outcome"),
        Column("exits", "list of int32", "the exits of the band; all before full depth, too"),
        Column("n", "int32", "number of prompts"),
        Column("labels", "int32", "number of labelled answers", "labels"),
        Column("rater", "string", "whose labels they are"),
        Column("value", "float64", "share of answers with that outcome by the run's judge"),
        Column("power", "float64", "lambda of PPI++: the weight of the judge's outcomes"),
        *CORRECTED_RATE,
    ),
)
