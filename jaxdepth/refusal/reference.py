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


class ReplyScores(NamedTuple):
    """Natural log-probabilities of the T first tokens of a reply, nats."""

    alone_T: Float[np.ndarray, " T"]  # after an empty message
    given_T: Float[np.ndarray, " T"]  # after its prompt
    cosine: float = float("nan")  # of prompt and reply under the sentence encoder; NaN without one


NO_SCORES = ReplyScores(np.zeros(0, np.float32), np.zeros(0, np.float32))


def score_replies(
    reference: Reference,
    texts: Sequence[str],
    prompts: Sequence[str] | None = None,
    max_tokens: int = MAX_TOKENS,
    batch_size: int = 64,
) -> list[ReplyScores]:
    """Score replies under a reference model.

    Each text is scored once after an empty message and once after each prompt that it answers:
    exits near full depth often give the same answer.

    Args:
        reference: the model, and the encoder of its tokenizer.
        texts: N replies.
        prompts: the prompt of each; without them `given_T` is empty.
        max_tokens: how many tokens of each reply are scored.
        batch_size: replies per forward pass.

    Returns:
        N scores. Where nothing precedes the first token (a base model without BOS), it has none.

    Raises:
        InputError: a size is below 1, or a prompt with its reply is too long for the model.
    """
    at_least(1, max_tokens=max_tokens, batch_size=batch_size)
    model, encoder, sentences = Reference(*reference)
    answered = [None] * len(texts) if prompts is None else prompts
    pairs = dict.fromkeys(("", text) for text in texts)
    pairs |= dict.fromkeys((p, t) for p, t in zip(answered, texts, strict=True) if p is not None)
    number = {prompt: z for z, prompt in enumerate(dict.fromkeys(p for p, _ in pairs))}
    tokens = {t: encoder.encode_text(t.strip())[:max_tokens] for t in dict.fromkeys(texts)}
    scores = continuation_logprobs(
        model,
        [encoder.encode(prompt) for prompt in number],
        [tokens[text] for _, text in pairs],
        [number[prompt] for prompt, _ in pairs],
        batch_size,
    )
    of_pair = dict(zip(pairs, map(_finite, scores), strict=True))
    cosine_N = [NO_SCORES.cosine] * len(texts)
    if sentences is not None and prompts is not None and len(texts):
        cosine_N = sentences.cosine(prompts, texts).tolist()
    return [
        ReplyScores(
            of_pair["", text],
            NO_SCORES.given_T if prompt is None else of_pair[prompt, text],
            cosine,
        )
        for prompt, text, cosine in zip(answered, texts, cosine_N, strict=True)
    ]


def _finite(score_T: Float[np.ndarray, " T"]) -> Float[np.ndarray, " T"]:
    return score_T[1:] if len(score_T) and np.isnan(score_T[0]) else score_T
