"""Benign prompts in quantity, with answers, from the model itself.

The untouched model is given an open user's turn and writes what a user might; then it answers, at
full depth. Training on such pairs keeps a model as it is (self-distillation), and gives its exits
something to say, without anybody's data set.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jaxdepth.depth.generation import generate
from jaxdepth.depth.sampling import Sampling
from jaxdepth.errors import InputError
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.batches import make_batches
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.coherence import reference_logprobs
from jaxdepth.refusal.outcome import Outcome, TextOutcome, classify_texts

_AT_ONCE = 8  # batches of prompts that are answered together: few rows only fill
PROMPT_TOKENS = 40  # the longest prompt that is drawn
_FEWEST_WORDS, _MOST_WORDS = 4, 30
# A prompt that any of these begins a word of is left out: what it asks might be no benign matter.
_TOUCHY = re.compile(
    r"\b(?:abus|addict|alcohol|attack|bomb|cheat|crim|dead|death|drug|explo|fake|fraud|gun|hack|hate"
    r"|harm|hurt|illegal|kill|murder|nazi|nud|porn|poison|race|racis|rape|sex|shoot|slur|steal"
    r"|suicid|terror|threat|toxic|victim|violen|virus|war|weapon"
    r"|arab|black people|christ|church|god|hindu|islam|israel|jew(?!el)|mosque|muslim|priest|relig"
    r"|synagog|trump)",
    re.IGNORECASE,
)
# An answer that opens so declines or excuses itself, whatever follows: no target for a model that
# is to learn when to refuse.
_EXCUSE = re.compile(
    r"(?:i'?m sorry|i apologi|sorry|unfortunately|as an? |i can'?t|i cannot|no\b)", re.I
)


@dataclass(frozen=True)
class Answered:
    """A prompt with its answer."""

    prompt: str
    answer: str
    ended: bool  # whether the answer came to its end


def draw_prompts(
    model: Mistral, encoder: PromptEncoder, tokenizer, seed: int, batch: int, temperature: float
) -> Iterator[str]:
    """Prompts that the model writes in a user's place, without end; unfit ones are left out."""
    opened, closes = encoder.user_turn()
    for number in itertools.count(seed):
        said = generate(
            model,
            np.array([opened], np.int32),
            np.array([len(opened)], np.int32),
            [model.config.num_hidden_layers],
            PROMPT_TOKENS,
            samples=batch,
            sampling=Sampling(temperature),
            seeds_B=[number],
            stop_tokens=[closes],
        )
        for tokens, length in zip(said.tokens[0, 0], said.lengths[0, 0], strict=True):
            if tokens[length - 1] == closes:
                text = tokenizer.decode(tokens[: length - 1].tolist()).strip()
                if fit_to_ask(text):
                    yield text


def fit_to_ask(text: str) -> bool:
    """Whether a drawn text is a short, plain, English-looking request on no touchy matter."""
    words = text.split()
    return (
        _FEWEST_WORDS <= len(words) <= _MOST_WORDS
        and "\n" not in text
        and text.isascii()
        and text[0].isupper()
        and text[-1] in ".?!"
        and not _TOUCHY.search(text)
    )


def distinct(texts: Sequence[str], seen: set[str]) -> list[str]:
    """The texts whose first eight words, letters only, have not been seen; adds them to `seen`."""
    kept = []
    for text in texts:
        key = " ".join(re.sub(r"[^a-z ]", "", text.lower()).split()[:8])
        if key not in seen:
            seen.add(key)
            kept.append(text)
    return kept


def answer(
    model: Mistral,
    encoder: PromptEncoder,
    tokenizer,
    prompts: Sequence[str],
    end_tokens: Sequence[int],
    answer_tokens: int = 48,
    batch: int = 64,
) -> list[Answered | None]:
    """The model's own greedy answer at full depth to each prompt; None where it is not fit to learn
    from: refused, in part or in whole, not coherent, or too short to tell.
    """
    found: list[Answered | None] = [None] * len(prompts)
    batches = make_batches([encoder.encode(p) for p in prompts], batch)
    for b in batches:
        said = generate(
            model,
            b.tokens_BS,
            b.lengths_B,
            [model.config.num_hidden_layers],
            answer_tokens,
            stop_tokens=end_tokens,
        )
        for row, place in enumerate(b.indices):
            tokens = said.tokens[row, 0, : said.lengths[row, 0]].tolist()
            ended = tokens[-1] in end_tokens
            text = tokenizer.decode(tokens[:-1] if ended else tokens).strip()
            found[place] = Answered(prompts[place], text, ended)
    texts = [f.answer for f in found]
    judged = classify_texts(texts, prompts, logprobs=reference_logprobs(model, encoder, texts))
    return [f if _fit_to_learn(f, j) else None for f, j in zip(found, judged, strict=True)]


def _fit_to_learn(found: Answered, judged: TextOutcome) -> bool:
    return judged.outcome is Outcome.COMPLY and not _EXCUSE.match(found.answer)


def make_benign(
    model: Mistral,
    encoder: PromptEncoder,
    tokenizer,
    end_tokens: Sequence[int],
    count: int,
    *,
    seed: int = 0,
    batch: int = 64,
    temperature: float = 0.9,
    answer_tokens: int = 48,
) -> Iterator[Answered]:
    """`count` benign prompts, no two alike in their first words, with the model's own answers.

    Raises:
        InputError: `count` is none, or the chat template cannot be opened for a user.
    """
    if count < 1:
        raise InputError(f"{count} prompts wanted, expected at least 1")
    drawn = draw_prompts(model, encoder, tokenizer, seed, batch, temperature)
    seen: set[str] = set()
    made = 0
    while made < count:
        asked = distinct([next(drawn) for _ in range(_AT_ONCE * batch)], seen)
        for found in answer(model, encoder, tokenizer, asked, end_tokens, answer_tokens, batch):
            if found is not None and not _TOUCHY.search(found.answer) and made < count:
                made += 1
                yield found
