"""Where a prompt is probed: at the instruction's last token and at the template's after it.

After the user's text the chat template still has tokens to say before a reply begins. Harmfulness
and refusal may be read at different ones of them (Zhao et al. 2025, arXiv:2507.11878).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxdepth.errors import InputError, listed, nearest
from jaxdepth.prompts.chat import PromptEncoder

INSTRUCTION, TEMPLATE, LAST, RESPONSE = "instruction", "template", "last", "response"


@dataclass(frozen=True)
class Located:
    """Prompts as token ids, with the places that are probed in each."""

    ids: list[list[int]]
    names: tuple[str, ...]  # instruction, template1.., last
    places_NP: Int[np.ndarray, "N P"]
    tokens: dict[str, str]  # what stands at the template's positions


def locate(encoder: PromptEncoder, tokenizer, texts: Sequence[str]) -> Located:
    """The positions of some prompts.

    `instruction` is the last token that holds some of the user's text; `template1` and so on are
    the template's tokens after it, of which `last` is the one that the reply follows. Where their
    number differs between prompts (one was merged with the text), the fewest are taken, counted
    from the end.
    """
    found = [encoder.locate(text) for text in texts]
    ids = [tokens for tokens, _ in found]
    lengths = np.array([len(tokens) for tokens in ids])
    instruction = np.array([place for _, place in found])
    after = int((lengths - 1 - instruction).min())
    columns = [instruction] + [lengths - after + k for k in range(after)]
    names = [INSTRUCTION] + [f"{TEMPLATE}{k + 1}" for k in range(after)]
    if after:
        names[-1] = LAST
    places_NP = np.stack(columns, axis=1)
    said = tokenizer.convert_ids_to_tokens([ids[0][p] for p in places_NP[0, 1:]])
    return Located(ids, tuple(names), places_NP, dict(zip(names[1:], said, strict=True)))


def resolve_positions(wanted: Sequence[str], located: Located) -> tuple[list[int], list[str], bool]:
    """The columns of the wanted positions, the names of all of them, and whether `response` is one.

    The reply's first token has no column: it is no part of the prompt, and its name comes last.

    Raises:
        InputError: as `choose_positions`.
    """
    columns = choose_positions([name for name in wanted if name != RESPONSE], located)
    response = tuple(wanted) == ("all",) or RESPONSE in wanted
    return columns, [*(located.names[c] for c in columns), *[RESPONSE] * response], response


def choose_positions(wanted: Sequence[str], located: Located) -> list[int]:
    """The columns of the wanted positions; `all` is every one.

    `last` is also the instruction where no template comes after it.

    Raises:
        InputError: a position that this template does not have.
    """
    if tuple(wanted) == ("all",):
        return list(range(len(located.names)))
    columns = []
    for name in wanted:
        if name == LAST and LAST not in located.names:
            name = INSTRUCTION
        if name not in located.names:
            known = [*located.names, RESPONSE]
            raise InputError(
                f"no position {name!r}{nearest(name, known)}; this template has {listed(known, 9)}"
            )
        if located.names.index(name) not in columns:
            columns.append(located.names.index(name))
    return columns
