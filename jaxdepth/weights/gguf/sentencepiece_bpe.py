"""A SentencePiece BPE of a GGUF file, `tokenizer.ggml.model = "llama"`, without its merges.

SentencePiece keeps no merges: of all neighbours in a text that together are a piece, it joins those
whose piece has the highest score, the leftmost first. The `tokenizers` library wants a list of
merges; those of a piece are all ways to cut it into two pieces, and the list is in order of scores.
No two pieces of a model have one score, but for runs of spaces. Sources: sentencepiece
`src/bpe_model.cc`, llama.cpp `src/llama-vocab.cpp`.
"""

import math
import re
from collections import Counter
from collections.abc import Container, Mapping
from reprlib import repr as short  # values in a file may be long

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jaxdepth.errors import InputError, listed
from jaxdepth.weights.gguf.byte_level import read_merges
from jaxdepth.weights.gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
)

_SPACE = "▁"
_BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
_MAX_LENGTH = 1024  # of a piece, in characters; its cuts take the square of that
# The score that converters give to tokens that were added beside the SentencePiece model.
_ADDED_SCORE = -1000.0
# What would change a text before it is cut into pieces; llama.cpp reads these for other kinds only.
_CHANGES_TEXT = ("remove_extra_whitespaces", "precompiled_charsmap", "treat_whitespace_as_suffix")


def sentencepiece_bpe(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer of the `tokenizers` library, without special tokens around a text.

    Control tokens, and those that were added beside the model, are found in a text before anything
    else, and the text after one begins anew, with a space before it if
    `tokenizer.ggml.add_space_prefix` is true. Symbols that the SentencePiece model itself defines
    are found in the text with its space, as SentencePiece does; with such symbols, a text between
    two of them that is nothing but the name of a token ("<0x0A>") becomes that token.

    Raises:
        InputError: the vocabulary is damaged, or of a model that is more than its scores.
    """
    changes = [name for name in _CHANGES_TEXT if vocabulary.get(name)]
    if changes:
        raise InputError(
            f"tokenizer.ggml.{listed(changes)} is not implemented for a SentencePiece tokenizer: "
            "convert the safetensors of this model, or pass --no-tokenizer"
        )
    symbols = _own_symbols(vocabulary)
    added = [
        i
        for i, kind in enumerate(vocabulary.types)
        if kind == CONTROL or (kind == USER_DEFINED and vocabulary.tokens[i] not in symbols)
    ]
    has_prefix = vocabulary.flag("add_space_prefix", True)
    backend = Tokenizer(_model(vocabulary, bool(symbols)))
    prefix = [normalizers.Prepend(_SPACE)] if has_prefix else []
    backend.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", _SPACE)])
    if symbols:
        longest_first = sorted(symbols, key=len, reverse=True)
        pattern = Regex("|".join(map(re.escape, longest_first)))
        backend.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    backend.add_tokens(list(map(vocabulary.added_token, added)))
    return backend


def _own_symbols(vocabulary: Vocabulary) -> set[str]:
    """What the SentencePiece model itself defines: it gives these symbols a score of 0."""
    types, tokens, scores = vocabulary.types, vocabulary.tokens, vocabulary.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        return set()
    return {
        token
        for token, kind, score in zip(tokens, types, scores, strict=True)
        if kind == USER_DEFINED and score != _ADDED_SCORE and token and " " not in token
    }


def _model(vocabulary: Vocabulary, keeps_words: bool) -> models.BPE:
    types, tokens = vocabulary.types, vocabulary.tokens
    unknown = vocabulary.special("unknown", types.index(UNKNOWN) if UNKNOWN in types else None)
    named_bytes = {t for t, kind in zip(tokens, types, strict=True) if kind == BYTE}
    if named_bytes not in (set(), _BYTES) or (unknown is None and not named_bytes):
        raise InputError(
            f"the GGUF tokenizer is damaged ({len(named_bytes)} tokens of bytes, expected 256, or "
            "none and one for what is unknown): fetch the file again"
        )
    pieces = {token: i for i, token in enumerate(tokens) if types[i] == NORMAL}
    _check_pieces(pieces)
    cuts = {piece: _cuts(piece, pieces) for piece in pieces if len(piece) > 1}
    cuts = {piece: pairs for piece, pairs in cuts.items() if pairs}
    return models.BPE(
        vocab=vocabulary.ids,
        merges=_merges(vocabulary, pieces, cuts),
        unk_token=None if unknown is None else tokens[unknown],
        fuse_unk=True,
        byte_fallback=bool(named_bytes),
        ignore_merges=keeps_words,
    )


def _merges(
    vocabulary: Vocabulary, pieces: Mapping[str, int], cuts: Mapping[str, list[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """The merges that scores stand for, or those of the file if its scores order nothing.

    Pieces of one score are joined from the left, which ranks cannot say. Runs of one character
    they can: what grows at the left is longer than all that could be joined to its right, so the
    longest piece comes first, and of its cuts the one with the shortest left part.
    """
    scores = _scores(vocabulary)
    counts = Counter(scores[pieces[piece]] for piece in cuts)
    tied = [p for p in cuts if counts[scores[pieces[p]]] > 1 and len(set(p)) > 1]
    if not tied:
        ordered = sorted(cuts, key=lambda piece: (-scores[pieces[piece]], -len(piece)))
        return [pair for piece in ordered for pair in cuts[piece]]
    if isinstance(vocabulary.get("merges"), list):
        return read_merges(vocabulary)
    raise InputError(
        f"{len(tied)} pieces of the GGUF tokenizer ({listed(map(short, tied))}) share their score "
        "with another, so that the order in which pieces are joined is lost: convert the "
        "safetensors of this model, or pass --no-tokenizer"
    )


def _cuts(piece: str, pieces: Container[str]) -> list[tuple[str, str]]:
    pairs = ((piece[:i], piece[i:]) for i in range(1, len(piece)))
    return [(left, right) for left, right in pairs if left in pieces and right in pieces]


def _check_pieces(pieces: Mapping[str, int]) -> None:
    """SentencePiece begins with a text's characters, the library with those that are tokens."""
    for piece in pieces:
        if len(piece) > _MAX_LENGTH:
            raise InputError(
                f"the GGUF tokenizer has a piece of {len(piece)} characters, expected at most "
                f"{_MAX_LENGTH}: fetch the file again"
            )
        missing = next((c for c in piece if c not in pieces), None)
        if missing is not None:
            raise InputError(
                f"piece {short(piece)} of the GGUF tokenizer has the character {missing!r}, which "
                "is no token: this is not implemented, convert the safetensors of this model, or "
                "pass --no-tokenizer"
            )


def _scores(vocabulary: Vocabulary) -> list[float]:
    scores = vocabulary.listed("scores")
    count = len(vocabulary.tokens)
    is_number = all(isinstance(s, int | float) and math.isfinite(s) for s in scores)
    if len(scores) != count or not is_number:
        raise InputError(
            f"the GGUF tokenizer is damaged ({len(scores)} scores, expected {count}, all of them "
            "numbers): fetch the file again"
        )
    return scores
