"""A wrong expression in the tokenizer of early Mistral Small and Ministral uploads, mended.

Their `tokenizer.json` splits text by the expression that transformers' converter takes if it is
told none, not by Tekken's: "I'll" and "HTTPServer" get other ids than in training. transformers
mends it if it is asked to (`fix_mistral_regex`), for a Mistral config of a version before 5, and
whatever the tokenizer is. Here it is mended at conversion where a Mistral model has that very
expression over Tekken's vocabulary, which has no token of two digits: so that a Mistral model with
the vocabulary of Llama 3, whose expression it is, keeps it.

Source: transformers 5 `tokenization_utils_tokenizers.py` (`_patch_mistral_regex`).
"""

import json
from collections.abc import Mapping

from jaxdepth.model import FastTokenizer
from jaxdepth.weights.gguf.byte_level import SPLITS

_FAMILIES = ("mistral", "mistral3", "ministral", "ministral3", "pixtral", "voxtral")
_WRONG, _RIGHT = SPLITS["llama-bpe"], SPLITS["tekken"]
_MARKER, _TWO_DIGITS = "[INST]", "42"


def may_be_wrong(raw_config: Mapping) -> bool:
    """Whether a model is of a family whose tokenizers are worth reading for the expression."""
    return raw_config.get("model_type") in _FAMILIES


def mend_expression(tokenizer: FastTokenizer | None, raw_config: Mapping) -> bool:
    """Give a tokenizer Tekken's expression if it has the wrong one; whether it had.

    Args:
        tokenizer: of a Hugging Face folder, which is changed.
        raw_config: the folder's config.json.
    """
    if tokenizer is None or not may_be_wrong(raw_config):
        return False
    backend = tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab()
    if _MARKER not in vocabulary or _TWO_DIGITS in vocabulary:
        return False
    state = json.loads(backend.to_str())["pre_tokenizer"] or {}
    first, *_ = state.get("pretokenizers") or [{}]
    pattern = first.get("pattern")
    if not isinstance(pattern, dict) or pattern.get("Regex") != _WRONG:
        return False
    from tokenizers import Regex, pre_tokenizers

    backend.pre_tokenizer[0] = pre_tokenizers.Split(Regex(_RIGHT), behavior="isolated")
    return True
