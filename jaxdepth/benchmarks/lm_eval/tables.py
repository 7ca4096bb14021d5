"""The tables of a run of `jaxdepth evaluate --with lm-eval`."""

from jaxdepth.study.common_tables import EXIT
from jaxdepth.study.tables import Column, Table

_REQUEST = Column("request", "int32", "number of the request, in the order of the tasks, from 0")
_SCORED = (
    Column("logprob", "float64", "log-probability of the continuation", "nats"),
    Column("is_greedy", "bool", "whether each of its tokens is the most probable one"),
)

LOGLIKELIHOODS = Table(
    "loglikelihoods",
    "a request (a context with a continuation) at an exit",
    (_REQUEST, EXIT, *_SCORED),
)
WINDOWS = Table(
    "windows",
    "a window of a text, in the order of the texts, at an exit",
    (_REQUEST, EXIT, *_SCORED),
)
TEXTS = Table(
    "texts",
    "a generated text at an exit",
    (_REQUEST, EXIT, Column("text", "string", "the text, before the first of its stop strings")),
)
