"""The tokenizer in a GGUF file, rebuilt with the `tokenizers` library (without torch)."""

from collections.abc import Mapping
from reprlib import repr as short  # values in a file may be long
from typing import Any

from tokenizers import processors

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.weights.gguf.byte_level import begins_with_bos, byte_level_bpe
from jaxdepth.weights.gguf.sentencepiece_bpe import sentencepiece_bpe
from jaxdepth.weights.gguf.vocabulary import CONTROL, UNKNOWN, Vocabulary, read_vocabulary

_KIND = "tokenizer.ggml.model"
_TEMPLATE = "tokenizer.chat_template"
_BYTE_LEVEL, _SENTENCEPIECE = "gpt2", "llama"
# transformers' name -> GGUF's
_SPECIAL_TOKENS = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip
# What a SentencePiece file means that does not name them, and their types there.
_SENTENCEPIECE_IDS = {"unknown": (0, UNKNOWN), "bos": (1, CONTROL), "eos": (2, CONTROL)}


def gguf_tokenizer(fields: Mapping[str, Any]) -> FastTokenizer | None:
    """A transformers fast tokenizer from a file's metadata, or None if it has no tokenizer.

    Raises:
        InputError: the tokenizer is damaged, or of a kind that is not supported.
    """
    kind = fields.get(_KIND, "none")
    if kind in ("none", "no_vocab"):
        return None
    if kind not in (_BYTE_LEVEL, _SENTENCEPIECE):
        raise InputError(
            f"GGUF tokenizer of kind {short(kind)} is not implemented, only 'gpt2' (byte-level "
            "BPE) and 'llama' (SentencePiece BPE): convert the safetensors of this model, or pass "
            "--no-tokenizer"
        )
    from transformers import PreTrainedTokenizerFast  # heavy

    vocabulary = read_vocabulary(fields)
    build = byte_level_bpe if kind == _BYTE_LEVEL else sentencepiece_bpe
    backend = build(vocabulary)
    special = {name: _special_id(vocabulary, kind, gguf) for name, gguf in _SPECIAL_TOKENS.items()}
    tokens = {name: vocabulary.tokens[i] for name, i in special.items() if i is not None}
    has_bos = kind == _SENTENCEPIECE or begins_with_bos(vocabulary)
    begins = _around(vocabulary, "bos", special["bos_token"], default=has_bos)
    ends = _around(vocabulary, "eos", special["eos_token"], default=False)
    if begins or ends:
        backend.post_processor = processors.TemplateProcessing(
            single=[*begins, "$A", *ends], special_tokens=list((begins | ends).items())
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=_chat_template(fields),
        clean_up_tokenization_spaces=False,
        **tokens,
    )


def _special_id(vocabulary: Vocabulary, kind: str, name: str) -> int | None:
    default, expected = _SENTENCEPIECE_IDS.get(name, (0, None))
    has_default = kind == _SENTENCEPIECE and vocabulary.types[default : default + 1] == [expected]
    return vocabulary.special(name, default if has_default else None)


def _around(
    vocabulary: Vocabulary, name: str, token_id: int | None, default: bool
) -> dict[str, int]:
    """The token that stands before (bos) or after (eos) every text, with its id, or nothing.

    Raises:
        InputError: the file says that there is one, but not which.
    """
    key = f"add_{name}_token"
    if not vocabulary.flag(key, default):
        return {}
    if token_id is None:
        if vocabulary.get(key) is None:
            return {}
        raise InputError(
            f"tokenizer.ggml.{key} is true, but there is no tokenizer.ggml.{name}_token_id: fetch "
            "the file again, or pass --no-tokenizer"
        )
    return {vocabulary.tokens[token_id]: token_id}


def _chat_template(fields: Mapping[str, Any]) -> str | None:
    template = fields.get(_TEMPLATE)
    if template is not None and not isinstance(template, str):
        raise InputError(f"{_TEMPLATE} is {short(template)}, expected a text")
    return template
