"""The table of a sweep over prefill lengths."""

from jaxdepth.study.sweep.tables import CURVE, WINDOWS
from jaxdepth.study.tables import Column, Table

_OF_CURVE = ("label", "exit", "n", "value", "low", "high", "band_low", "band_high")
_OF_WINDOWS = ("competent", "verdict")

PREFILL_MAP = Table(
    "prefill_map",
    "a measure at an exit, after a prefill of some length, by label",
    (
        Column(
            "prefill_tokens",
            "int32",
            "how many tokens of its prefill each prompt was given; 0: none",
            "tokens",
        ),
        Column(
            "metric",
            "string",
            "a measure of first_token (its mean; after a prefill of the token that follows it), or "
            "outcome_NAME (share of answers with that outcome)",
        ),
        *(column for column in CURVE.columns if column.name in _OF_CURVE),
        *(column for column in WINDOWS.columns if column.name in _OF_WINDOWS),
    ),
)
