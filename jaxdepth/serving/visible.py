"""The visible text of a lane, whole or while it grows."""

import re

from jaxdepth.model import FastTokenizer, Ints
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.refusal.protocol import Markers

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of SentencePiece's byte fallback
_REPLACEMENT = "\ufffd"  # stands for bytes that are no character, or not yet


def marker_ids(markers: Markers, encoder: PromptEncoder) -> frozenset[int]:
    """The markers and verdicts that are special tokens: no answer may go on after one of them.

    A model that writes one in its answer begins to think or decide again.
    """
    return frozenset({*markers.open, *markers.close, *markers.verdicts} & encoder.control_ids)


def visible_ids(
    ids: Ints, end_tokens: frozenset[int], hidden: frozenset[int]
) -> tuple[list[int], bool]:
    """The token ids of an answer before an end token or a marker, and whether there was one."""
    numbers = [int(token) for token in ids]
    for place, token in enumerate(numbers):
        if token in end_tokens or token in hidden:
            return numbers[:place], True
    return numbers, False


def decode_visible(tokenizer: FastTokenizer, ids: list[int], *, is_whole: bool) -> str:
    """The text of an answer without special tokens.

    Of an answer that goes on it is the part that later tokens do not change: bytes that may belong
    to an unfinished character are left out.
    """
    if not is_whole:
        while ids and _BYTE.fullmatch(tokenizer.convert_ids_to_tokens(ids[-1]) or ""):
            ids = ids[:-1]
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text if is_whole else text.rstrip(_REPLACEMENT)
