"""What decides how prompts are written and replies are read, as digests for a run's record.

The weights' fingerprint covers neither the tokenizer nor the chat template: both can change while
the weights stay the same.
"""

import hashlib
import json
from collections.abc import Iterable

from jaxdepth.model import FastTokenizer

_USER = {"role": "user", "content": " Which of these two is older?\n\nSay why. "}
_REPLY = {"role": "assistant", "content": " The first one. "}
_NEXT = {"role": "user", "content": "And the third?"}
_SYSTEM = {"role": "system", "content": " Be brief.\nBe kind. "}
# Fixed conversations that are rendered to tell chat templates apart, each with a generation prompt
# or without.
PROBE = (
    ([_USER], True),
    ([_USER], False),
    ([_USER, _REPLY], False),
    ([_USER, _REPLY, _NEXT], True),
    ([_SYSTEM, _USER], True),
    ([_SYSTEM, _USER, _REPLY], False),
    ([_SYSTEM, _USER, _REPLY, _NEXT], True),
)
# The day that they are told where prompts depend on none.
PROBE_DATE = "2019-01-02"


def tokenizer_digest(tokenizer: FastTokenizer) -> str:
    """SHA-256 of what decides a text's ids and an id's text: all but the chat template.

    It depends on neither the tokenizer's files nor where they lie: the same tokenizer read from
    another form has the same digest.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # of the last call, not of the tokenizer
        spec.pop(name, None)
    spec["special"] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    spec["all_special"] = sorted(map(str, tokenizer.all_special_tokens))
    spec["cleans_up"] = bool(tokenizer.clean_up_tokenization_spaces)
    return _digest(spec)


def template_digest(texts: Iterable[str | None], markers: Iterable[str]) -> str:
    """SHA-256 of what a chat template decides.

    Args:
        texts: of `PROBE`, rendered; None for a conversation that the template refuses.
        markers: the added tokens that look like markers and that the template writes.
    """
    return _digest([list(texts), sorted(markers)])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
