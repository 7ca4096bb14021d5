"""Think-then-decide protocols: a thought, a verdict in one token, then the answer, as token ids.

    prompt | open | thought | close | VERDICT | answer

The user sees what comes after the verdict. Markers and verdicts are special tokens, which no user
text can hold, or ordinary text, which a user can type: either way only generated positions count.
"""

from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Literal, NamedTuple

from jaxdepth.errors import InputError, listed
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.conversation import ConversationEncoder
from jaxdepth.prompts.prompt import Prompt
from jaxdepth.settings_file import read_settings


class Verdict(StrEnum):
    """The decision of a model. Abstain: the margin was too small and no answer is shown."""

    REFUSE = "refuse"
    PARTIAL = "partial"
    COMPLY = "comply"
    ABSTAIN = "abstain"


VERDICTS = (Verdict.REFUSE, Verdict.PARTIAL, Verdict.COMPLY)  # in the order of their tokens


@dataclass(frozen=True)
class Protocol:
    """The texts that make a model think, then decide, and the lengths of both parts."""

    instruction: str
    """Stands before the user's text; {refuse}, {partial}, {comply}, {close} become its words."""
    again: str
    """The same for a second pass over what was judged PARTIAL."""
    open: str
    """Begins the reply; may be empty."""
    close: str
    """Ends the thought: written by the model, or appended when the thought has its max tokens."""
    verdicts: tuple[tuple[str, ...], ...]
    """Sets of words for refuse, partial and comply: the first set of single tokens is taken."""
    thought_tokens: int
    """Max tokens of a thought; 0 decides at once."""
    answer_tokens: int
    """Max tokens of an answer; 0 only decides."""
    verdict_reads: Literal["all", "thought"] = "all"
    """What the closing marker attends to, after which the verdict stands: with `thought` only the
    thought and itself, so that what the prompt says reaches the verdict by way of the thought."""

    def __post_init__(self):
        for name in ("thought_tokens", "answer_tokens"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not self.close:
            raise InputError("the protocol's close is empty: a thought must end with something")
        if self.verdict_reads == "thought" and not self.thought_tokens:
            raise InputError("verdict_reads is thought and thought_tokens is 0: no thought to read")
        if not self.verdicts:
            raise InputError("the protocol has no verdicts: give sets of three words")
        for words in self.verdicts:
            if len(words) != len(VERDICTS) or not all(words):
                raise InputError(
                    f"verdicts {listed(map(repr, words))}: expected three words, "
                    "for refuse, partial and comply"
                )

    def record(self) -> dict:
        """The protocol as runs and adapters record it: `verdict_reads` only where it is set."""
        values = asdict(self)
        if self.verdict_reads == "all":
            del values["verdict_reads"]
        return values


class Markers(NamedTuple):
    """The token ids of a protocol for one tokenizer."""

    open: tuple[int, ...]
    close: tuple[int, ...]
    verdicts: tuple[int, ...]  # refuse, partial, comply
    words: tuple[str, ...]  # the same
    verdict_reads: Literal["all", "thought"] = "all"  # as `Protocol.verdict_reads`


def resolve_markers(
    protocol: Protocol, encoder: PromptEncoder, end_tokens: Sequence[int]
) -> Markers:
    """Find the token ids of a protocol's markers and verdicts.

    Raises:
        InputError: in no set of words is each verdict one token of its own, or a marker is an end
            token.
    """
    close = encoder.marker(protocol.close)
    faults = []
    for words in protocol.verdicts:
        ids = [encoder.word_after(protocol.close, word) for word in words]
        fault = _fault(words, ids, close, end_tokens)
        if fault is None and protocol.verdict_reads == "thought" and len(close) > 1:
            raise InputError(
                f"verdict_reads is thought and the closing marker is {len(close)} tokens of this "
                "model, of which the first ones attend to the prompt: give it a token of its own, "
                "as configs/tuned.toml does"
            )
        if fault is None:
            open_ids = encoder.marker(protocol.open) if protocol.open else []
            verdicts = tuple(token for token in ids if token is not None)  # all of them here
            reads = protocol.verdict_reads
            return Markers(tuple(open_ids), tuple(close), verdicts, tuple(words), reads)
        faults.append(fault)
    others = f" (and {len(faults) - 1} other sets fail)" if len(faults) > 1 else ""
    raise InputError(f"{faults[0]}{others}: choose other verdict words")


def instruct(instruction: str, close: str, words: Sequence[str], text: str) -> str:
    """A user's text after the instruction. Placeholders in the user's text stay as they are."""
    if not instruction:
        return text
    for name, word in zip((*VERDICTS, "close"), (*words, close.strip()), strict=True):
        instruction = instruction.replace("{" + name + "}", word)
    return f"{instruction}\n\n{text}"


def open_thoughts(
    conversations: ConversationEncoder,
    markers: Markers,
    instruction: str,
    close: str,
    prompts: Sequence[Prompt],
) -> list[list[int]]:
    """The token ids of prompts under a protocol, up to where a thought begins.

    Args:
        conversations: of the model.
        markers: from `resolve_markers`.
        instruction: `Protocol.instruction` or `Protocol.again`.
        close: `Protocol.close`.
        prompts: whose texts get the instruction in front.
    """
    asked = [
        replace(prompt, text=instruct(instruction, close, markers.words, prompt.text))
        for prompt in prompts
    ]
    return [conversations.encode(prompt.messages) + list(markers.open) for prompt in asked]


def _fault(
    words: Sequence[str],
    ids: Sequence[int | None],
    close: Sequence[int],
    end_tokens: Sequence[int],
) -> str | None:
    """Why a set of verdict words cannot be used; None if it can."""
    split = [repr(word) for word, token in zip(words, ids, strict=True) if token is None]
    if split:
        return f"the verdict {listed(split)} is not one token of this model"
    for index, token in enumerate(ids):
        if token in ids[:index]:
            first, second = words[ids.index(token)], words[index]
            return f"the verdicts {first!r} and {second!r} collide: both are token {token}"
        if token in end_tokens or token in close:
            return f"the verdict {words[index]!r} is token {token}, which ends a thought or answer"
    return None


def read_protocol(name: str) -> Protocol:
    """Read the protocol in a TOML file, or in one of configs/ by its name.

    Raises:
        InputError: as `read_settings`; a key is missing; a value is out of range.
    """
    settings = read_settings(Protocol, name)
    missing = [f.name for f in fields(Protocol) if f.default is MISSING and f.name not in settings]
    if missing:
        raise InputError(f"protocol {name} lacks {listed(missing)}")
    return Protocol(**settings)
