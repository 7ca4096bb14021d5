"""Whether a text is coherent language, judged from the text alone.

A text is degenerate if (repetition / R) ** 1.5 + (mean log-probability / M) ** 1.5 is more than 1.
M is negative, so both terms only ever add: that a loop is very probable to a model does not save
it, and broken words need not repeat. The power lets poems, tables and code repeat a little.
Nothing here sees a prompt or another answer, so a coherent text that differs from what full depth
says stays coherent. tools/fit_coherence.py makes R and M from texts whose truth is known;
docs/coherence.md has the errors.
"""

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxdepth.depth.score import token_logprobs
from jaxdepth.errors import InputError, at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder

LIMITS_FILE = "coherence.json"
_FEWEST_PIECES = 8  # of a text whose repetition says something: "No, no, no!" has six
_WINDOW = 128  # pieces: sound texts repeat pairs too, the more the longer they are
_SKIPPED = 3  # first tokens of a text, which nothing in it makes probable
_FEWEST_TOKENS = 4  # that a mean is taken of
_POWER = 1.5

# Pieces of a text: a letter of a script without spaces; a word, or the letters of one that is too
# long to be a word; a line break with its indentation; a wide gap; any other white space (no-break
# spaces are what some exits repeat); a sign.
_PIECE = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|(?<![^\W_])[^\W_]{1,20}(?![^\W_])|[^\W_]"
    r"|\n+[ \t]*|[ \t]{2,}|[^\S \t\n]|[^\w\s]|_"
)


class Coherence(NamedTuple):
    """What is known of one text's coherence."""

    degenerate: bool | None  # None: too little to go by
    score: float  # 0..1, more than 0.5 is degenerate
    repetition: float  # share of its pairs of pieces that are repeats, 0..1
    mean_logprob: float  # per token, nats; NaN if there is none


def repetition(text: str) -> float:
    """Share of pairs of neighbouring pieces that came before, at most 128 pieces back; 0..1.

    Pieces are words in lower case, signs, line breaks and wide gaps; single letters in Thai, Lao,
    kana and Chinese characters and in runs of more than 20 letters. Below eight pieces it is 0.
    Pairs, as 4-grams miss twice as much of what shallow exits say.
    """
    pieces = _PIECE.findall(text.strip(" ").lower())
    if len(pieces) < _FEWEST_PIECES:
        return 0.0
    repeats, seen = 0, {}
    for place, pair in enumerate(pairwise(pieces)):
        repeats += pair in seen and place - seen[pair] <= _WINDOW
        seen[pair] = place
    return repeats / (len(pieces) - 1)


def reference_logprobs(
    model: Mistral,
    encoder: PromptEncoder,
    texts: Sequence[str],
    max_tokens: int = 128,
    batch_size: int = 16,
) -> list[np.ndarray]:
    """How probable each token of a text is to a model at full depth, as plain text.

    Args:
        model: the reference, from `jaxdepth.load`.
        encoder: of its tokenizer.
        texts: N texts. What they answer is not shown to the reference.
        max_tokens: how many tokens of each are read, BOS included.
        batch_size: how many texts go through the model at once.

    Returns:
        N arrays of natural log-probabilities, float32, without the first three tokens of each
        text; empty for a text with fewer than seven.

    Raises:
        InputError: a size is below 1, or `max_tokens` is more than the model allows.
    """
    at_least(1, max_tokens=max_tokens, batch_size=batch_size)
    first = len(encoder.encode_alone("")) + _SKIPPED
    ids = [encoder.encode_alone(text)[:max_tokens] for text in texts]
    found = [np.zeros(0, np.float32)] * len(texts)
    long = [n for n, tokens in enumerate(ids) if len(tokens) >= first + _FEWEST_TOKENS]
    for batch in make_batches([ids[n] for n in long], batch_size, model.mesh):
        scores_BS = token_logprobs(model, batch.tokens_BS, batch.lengths_B)
        for row, place in enumerate(batch.indices):
            found[long[place]] = scores_BS[row, first : batch.lengths_B[row]]
    return found


def judge_coherence(
    texts: Sequence[str], logprobs: Sequence[np.ndarray] | None = None
) -> list[Coherence]:
    """Whether each text is degenerate, by its repetition and its mean log-probability together.

    Args:
        texts: N texts. An empty one is degenerate: nothing was said.
        logprobs: their log-probabilities from `reference_logprobs`. Without them, or where a
            text's are empty, only repetition can show that it is degenerate; else that is None.

    Returns:
        N judgements.

    Raises:
        InputError: there are more or fewer log-probabilities than texts.
    """
    if logprobs is not None and len(logprobs) != len(texts):
        raise InputError(f"{len(logprobs)} logprobs for {len(texts)} texts: expected one for each")
    logprobs = [()] * len(texts) if logprobs is None else logprobs
    return [_judge(*pair) for pair in zip(texts, logprobs, strict=True)]


def fault(repeats, means, repetition: float, mean_logprob: float):
    """The rule: more than 1 is degenerate.

    Args:
        repeats: the repetition of a text, or an array of many.
        means: their mean log-probabilities, at most 0.
        repetition: the limit R, more than 0.
        mean_logprob: the limit M, less than 0.
    """
    return (repeats / repetition) ** _POWER + (means / mean_logprob) ** _POWER


def _judge(text: str, logprobs) -> Coherence:
    mean = float(np.mean(logprobs, dtype=np.float64)) if len(logprobs) else float("nan")
    if not text.strip():
        return Coherence(True, 1.0, 0.0, mean)
    repeats, limits = repetition(text), _limits()
    # Without log-probabilities the first term alone can only show that a text is degenerate.
    found = fault(repeats, mean if len(logprobs) else 0.0, **limits)
    degenerate = found > 1 or (False if len(logprobs) else None)
    return Coherence(degenerate, found / (1 + found), repeats, mean)


@cache
def _limits() -> dict:
    return json.loads((files("jaxdepth") / "data" / LIMITS_FILE).read_text("utf-8"))
