"""A prompt: what a model is asked, with what goes before its answer."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from jaxdepth.errors import InputError

HARMFUL, HARMLESS = "harmful", "harmless"
UNLABELLED = "unlabelled"  # in tables, and on the command line


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """One instruction to a model; perhaps the last of a conversation."""

    prompt_id: str
    text: str  # of the last user message
    label: str | None  # harmful or harmless; None: unlabelled
    category: str | None
    pair_id: str | None  # shared by the harmful and the harmless prompt of a pair
    source: str  # the file or built-in set that it is from
    system: str | None = None  # its own system prompt
    earlier: tuple[Message, ...] = ()  # by user and assistant in turn, before the text
    prefill: str | None = None  # the start of the assistant's answer

    @property
    def cluster_id(self) -> str:
        """The unit that the bootstrap resamples and folds keep whole: its pair, or itself."""
        return self.pair_id or self.prompt_id

    @property
    def messages(self) -> list[Message]:
        """The conversation up to the reply."""
        system = [] if self.system is None else [Message("system", self.system)]
        return [*system, *self.earlier, Message("user", self.text)]

    @property
    def asked(self) -> str:
        """The prompt as judges and raters read it: the text, after earlier turns written out."""
        turns = [f"{message.role}: {message.content}" for message in self.earlier]
        return "\n\n".join([*turns, f"user: {self.text}"]) if turns else self.text

    def reply(self, generated: str) -> str:
        """The whole reply, as judges and raters read it: its given start, and what follows it."""
        return (self.prefill or "") + generated

    @property
    def is_text_alone(self) -> bool:
        """Whether the model sees nothing but the text: no system prompt, turns or prefill."""
        return self.system is None and not self.earlier and self.prefill is None

    def as_row(self) -> dict[str, str | None]:
        """The prompt as a row of a table: every label is a word, earlier messages are JSON."""
        earlier = [message._asdict() for message in self.earlier]
        texts = json.dumps(earlier, ensure_ascii=False) if earlier else None
        return {**vars(self), "label": self.label or UNLABELLED, "earlier": texts}


def prompt_of_row(row: Mapping[str, Any]) -> Prompt:
    """The prompt of a row from `Prompt.as_row`; a table of an earlier version has fewer columns.

    Raises:
        InputError: its earlier messages are not those of a conversation.
    """
    earlier = row.get("earlier")
    try:
        messages = tuple(Message(**message) for message in json.loads(earlier or "[]"))
    except (ValueError, TypeError):
        messages = None
    if messages is None or not all(isinstance(part, str) for m in messages for part in m):
        raise InputError(
            f"prompt {row['prompt_id']} has earlier messages {earlier!r:.60}, expected a JSON list "
            "of objects with role and content: it is damaged"
        )
    label = None if row["label"] == UNLABELLED else row["label"]
    return Prompt(**{**row, "label": label, "earlier": messages})


def check_labelled(prompts: Iterable[Prompt], purpose: str) -> None:
    """Check that every prompt is harmful or harmless.

    Args:
        prompts: to be checked.
        purpose: what needs labels, for the message: "decide scores verdicts".

    Raises:
        InputError: names the first prompt without a label, and says how many there are.
    """
    unlabelled = [p for p in prompts if p.label is None]
    if unlabelled:
        raise InputError(
            f"{purpose} by the labels of prompts, and {len(unlabelled)} have none, the first "
            f"{unlabelled[0].prompt_id} of {unlabelled[0].source}: write {HARMFUL}=FILE or "
            f"{HARMLESS}=FILE, or name the label's column by --columns label=NAME"
        )


def prompts_digest(prompts: Iterable[Prompt]) -> str:
    """SHA-256 over every field of every prompt, with its source's number in place of its path."""
    numbers: dict[str, int] = {}
    fields = []
    for p in prompts:
        values = list(asdict(p).values())
        # As before there were conversations: digests of prompts without them stay the same.
        kept = values[:6] if p.is_text_alone else values
        kept[5] = str(numbers.setdefault(p.source, len(numbers)))
        fields.append(kept)
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()
