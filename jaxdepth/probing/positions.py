"""Positions of a prompt that are probed: the instruction's last token and the template's after it.

After the user's text the chat template has some tokens before a reply begins. Harmfulness and
refusal may be linearly readable at different ones of them (Zhao et al. 2025, arXiv:2507.11878).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.model import FastTokenizer
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import Written

INSTRUCTION, TEMPLATE, LAST, RESPONSE = "instruction", "template", "last", "response"


@dataclass(frozen=True)
class Located:
    """Prompts as token ids, with the probed positions of each."""

    ids: list[list[int]]
    names: tuple[str, ...]  # instruction, template1.., last
    places_NP: Int[np.ndarray, "N P"]
    tokens: dict[str, str]  # the token at each of the template's positions


def locate(encoder: PromptEncoder, tokenizer: FastTokenizer, texts: Sequence[str]) -> Located:
    """Encode prompts and find the positions that can be probed.

    `instruction` is the last token that has some of the user's text; `template1` and so on are the
    template's tokens after it, of which `last` is the one that the reply follows. Where their
    number differs between prompts (one was merged with the text), the smallest is taken, counted
    from the end.
    """
    return locate_written(tokenizer, [Written(*encoder.locate(text), "") for text in texts])


def locate_written(tokenizer: FastTokenizer, written: Sequence[Written]) -> Located:
    """`locate` for prompts that are token ids already.

    Those of conversations too: the text is that of the last user message. Where the start of the
    reply is given, its tokens count as the template's.
    """
    ids = [prompt.ids for prompt in written]
    lengths = np.array([len(tokens) for tokens in ids])
    instruction = np.array([prompt.text_end for prompt in written])
    after = int((lengths - 1 - instruction).min())
    columns = [instruction] + [lengths - after + k for k in range(after)]
    names = [INSTRUCTION] + [f"{TEMPLATE}{k + 1}" for k in range(after)]
    if after:
        names[-1] = LAST
    places_NP = np.stack(columns, axis=1)
    tokens = tokenizer.convert_ids_to_tokens([ids[0][p] for p in places_NP[0, 1:]])
    return Located(ids, tuple(names), places_NP, dict(zip(names[1:], tokens, strict=True)))


def resolve_positions(
    requested: Sequence[str], located: Located
) -> tuple[list[int], list[str], bool]:
    """The columns of requested positions, the names of all, and whether `response` is one of them.

    The reply's first token has no column, as it is not part of the prompt; its name comes last.

    Raises:
        InputError: as `choose_positions`.
    """
    columns = choose_positions([name for name in requested if name != RESPONSE], located)
    response = tuple(requested) == ("all",) or RESPONSE in requested
    return columns, [*(located.names[c] for c in columns), *[RESPONSE] * response], response


def choose_positions(requested: Sequence[str], located: Located) -> list[int]:
    """The columns of the requested positions; `all` is every one.

    Where no template token follows the instruction, `last` is the instruction.

    Raises:
        InputError: a position that this template does not have.
    """
    if tuple(requested) == ("all",):
        return list(range(len(located.names)))
    columns = []
    for name in requested:
        if name == LAST and LAST not in located.names:
            name = INSTRUCTION
        if name not in located.names:
            names = [*located.names, RESPONSE]
            raise InputError(
                f"no position {name!r}{nearest(name, names)}; this template has {listed(names, 9)}"
            )
        if located.names.index(name) not in columns:
            columns.append(located.names.index(name))
    return columns
