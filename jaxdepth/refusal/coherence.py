"""Whether a text is coherent language, judged without its prompt.

A text is degenerate if (repetition / R) ** 1.5 + (mean log-probability / M) ** 1.5 is more than 1.
The log-probability is that of the text as a reply to an empty message. Both terms are at least 0: a
loop is degenerate however probable a model finds it, and broken words are degenerate without any
repetition. The power lets poems, tables and code repeat a little. The rule sees no prompt and no
other answer, so a coherent text that differs from full depth's stays coherent.
tools/fit_coherence.py fits R and M on labelled texts; docs/coherence.md has the errors.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np

from jaxdepth.errors import InputError

LIMITS_FILE = "coherence.json"
FloatOrArray = TypeVar("FloatOrArray", float, np.ndarray)
MIN_PIECES = 8  # shorter texts have repetition 0: "No, no, no!" has six pieces
_WINDOW = 128  # pieces: coherent texts repeat pairs too, the more the longer they are
_MIN_TOKENS = 4  # of a mean log-probability
_POWER = 1.5

# Pieces of a text: a letter of a script without spaces; a word, or the letters of one that is too
# long to be a word; a line break with its indentation; a wide gap; any other white space (no-break
# spaces are what some exits repeat); a sign.
_PIECE = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|(?<![^\W_])[^\W_]{1,20}(?![^\W_])|[^\W_]"
    r"|\n+[ \t]*|[ \t]{2,}|[^\S \t\n]|[^\w\s]|_"
)


class Coherence(NamedTuple):
    """The judgement of one text."""

    degenerate: bool | None  # None: the text is too short to tell
    score: float  # 0..1, more than 0.5 is degenerate
    repetition: float  # share of its pairs of pieces that are repeats, 0..1
    mean_logprob: float  # per token, nats; NaN if there is none


def repetition(text: str) -> float:
    """Share of bigrams that occurred before, at most 128 pieces back; 0..1.

    Pieces are words in lower case, signs, line breaks and wide gaps; single letters in Thai, Lao,
    kana and Chinese characters and in runs of more than 20 letters. Below eight pieces it is 0.
    Bigrams, as 4-grams miss twice as many of the texts of shallow exits.
    """
    pieces = _pieces(text)
    if len(pieces) < MIN_PIECES:
        return 0.0
    repeats = 0
    last_index: dict[tuple[str, str], int] = {}
    for index, bigram in enumerate(pairwise(pieces)):
        repeats += bigram in last_index and index - last_index[bigram] <= _WINDOW
        last_index[bigram] = index
    return repeats / (len(pieces) - 1)


def piece_count(text: str) -> int:
    """The number of pieces of a text, as `repetition` counts them."""
    return len(_pieces(text))


def judge_coherence(
    texts: Sequence[str], logprobs: Sequence[np.ndarray] | None = None
) -> list[Coherence]:
    """Judge whether texts are degenerate, by repetition and mean log-probability together.

    Args:
        texts: N texts. An empty one is degenerate.
        logprobs: per token, as `alone_T` of `reference.score_replies`. Without them, or where a
            text has fewer than four, only repetition can show that it is degenerate; else that is
            None.

    Returns:
        N judgements.

    Raises:
        InputError: there are more or fewer log-probabilities than texts.
    """
    if logprobs is not None and len(logprobs) != len(texts):
        raise InputError(f"{len(logprobs)} logprobs for {len(texts)} texts: expected one for each")
    logprobs = [np.zeros(0)] * len(texts) if logprobs is None else logprobs
    return [_judge(*pair) for pair in zip(texts, logprobs, strict=True)]


def degeneracy(
    repeats: FloatOrArray, mean_logprob: FloatOrArray, limits: Mapping[str, float]
) -> FloatOrArray:
    """The sum of the rule's two terms; more than 1 is degenerate.

    Args:
        repeats: the repetition of a text, or an array of many.
        mean_logprob: of the same, at most 0.
        limits: R as `repetition`, more than 0, and M as `mean_logprob`, less than 0.
    """
    repeated, improbable = repeats / limits["repetition"], mean_logprob / limits["mean_logprob"]
    return repeated**_POWER + improbable**_POWER


def _judge(text: str, logprobs: Sequence[float] | np.ndarray) -> Coherence:
    finite = np.asarray(logprobs)[np.isfinite(logprobs)]  # nothing may precede the first token
    scored = len(finite) >= _MIN_TOKENS
    mean = float(np.mean(finite, dtype=np.float64)) if scored else float("nan")
    if not text.strip():
        return Coherence(True, 1.0, 0.0, mean)
    repeats = repetition(text)
    # Without log-probabilities the first term alone can only show that a text is degenerate.
    excess = degeneracy(repeats, mean if scored else 0.0, _limits())
    degenerate = excess > 1 or (False if scored else None)
    return Coherence(degenerate, excess / (1 + excess), repeats, mean)


def _pieces(text: str) -> list[str]:
    return _PIECE.findall(text.strip(" ").lower())


@cache
def _limits() -> dict[str, float]:
    return json.loads((files("jaxdepth") / "data" / LIMITS_FILE).read_text("utf-8"))
