"""What a reference model makes of a reply: its log-probability after its prompt, and after none.

Both are of the reply alone, token by token, at full depth. After an empty message they tell whether
the text is language at all, after the prompt whether it answers that prompt; the difference of the
two is the pointwise mutual information of prompt and reply.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdepth.depth.continuation import continuation_logprobs
from jaxdepth.errors import at_least
from jaxdepth.model.mistral import Mistral
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.encoder import Encoder

MAX_TOKENS = 128  # of a reply are read


class Reference(NamedTuple):
    """What reads replies: a model at full depth, and a sentence encoder if there is one."""

    model: Mistral
    encoder: PromptEncoder
    sentences: Encoder | None = None
    # Scores so far by prompt and reply, where several judges read the same ones.
    known: dict[tuple[str, str], Float[np.ndarray, " T"]] | None = None


class ReplyScores(NamedTuple):
    """What a reference makes of a reply: natural log-probabilities of its first T tokens, nats."""

    alone_T: Float[np.ndarray, " T"]  # after an empty message
    given_T: Float[np.ndarray, " T"]  # after its prompt
    cosine: float = float("nan")  # of prompt and reply under the sentence encoder; NaN without one


NO_SCORES = ReplyScores(np.zeros(0, np.float32), np.zeros(0, np.float32))


def score_alone(
    reference: Reference, texts: Sequence[str], max_tokens: int = MAX_TOKENS, batch_size: int = 32
) -> list[ReplyScores]:
    """Score replies after an empty message; equal ones are scored once.

    Args:
        reference: the model, and the encoder of its tokenizer.
        texts: N replies.
        max_tokens: how many tokens of each reply are scored.
        batch_size: replies per forward pass.

    Returns:
        N scores with `alone_T` alone. Where nothing precedes the first token (a base model without
        BOS), it has NaN.

    Raises:
        InputError: a size is below 1.
    """
    scores = _score(reference, [("", text) for text in texts], max_tokens, batch_size)
    return [NO_SCORES._replace(alone_T=score_T) for score_T in scores]


def score_given(
    reference: Reference,
    texts: Sequence[str],
    prompts: Sequence[str],
    alone: Sequence[ReplyScores],
    max_tokens: int = MAX_TOKENS,
    batch_size: int = 32,
) -> list[ReplyScores]:
    """Add what replies score after their prompts to what they score alone.

    Args:
        reference: the model and its encoder, and the sentence encoder if there is one.
        texts: N replies.
        prompts: the prompt of each.
        alone: of the same replies, from `score_alone`.
        max_tokens: how many tokens of each reply are scored, as in `score_alone`.
        batch_size: replies per forward pass.

    Raises:
        InputError: a size is below 1.
    """
    if not len(texts):
        return []
    given = _score(reference, list(zip(prompts, texts, strict=True)), max_tokens, batch_size)
    sentences = Reference(*reference).sentences
    if sentences is None:
        return [score._replace(given_T=g) for score, g in zip(alone, given, strict=True)]
    cosine_N = sentences.cosine(prompts, texts).tolist()
    return list(map(ReplyScores, (score.alone_T for score in alone), given, cosine_N))


def _score(
    reference: Reference, pairs: Sequence[tuple[str, str]], max_tokens: int, batch_size: int
) -> list[Float[np.ndarray, " T"]]:
    """The log-probabilities of each reply after its prompt; each pair is scored once."""
    at_least(1, max_tokens=max_tokens, batch_size=batch_size)
    model, encoder, _, known = Reference(*reference)
    of_pair = {} if known is None else known
    distinct = [pair for pair in dict.fromkeys(pairs) if pair not in of_pair]
    number = {prompt: z for z, prompt in enumerate(dict.fromkeys(p for p, _ in distinct))}
    # A prompt that fills another model's context leaves less room for the reply, or none.
    longest = model.config.max_position_embeddings
    prefixes = [encoder.encode(prompt)[:longest] for prompt in number]
    of_reply = [number[prompt] for prompt, _ in distinct]
    replies = [
        encoder.encode_text(text.strip())[: min(max_tokens, longest - len(prefixes[z]))]
        for (_, text), z in zip(distinct, of_reply, strict=True)
    ]
    scores = continuation_logprobs(model, prefixes, replies, of_reply, batch_size)
    of_pair.update(zip(distinct, scores, strict=True))
    return [of_pair[pair] for pair in pairs]
