"""Conversations as token ids inside a chat template, safe from typed control tokens.

As in chat.py the template is rendered with placeholders, here one for each message, so what users,
operators and earlier replies say never passes through it and never becomes a control token. How a
conversation is rendered depends on its form alone: how many turns, whether a system message comes
first, and whether the start of the reply is given (a prefill). A prefill is the last message, cut
off where it ends: `apply_chat_template(..., continue_final_message=True)` of transformers.
"""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from jaxdepth.errors import InputError, listed
from jaxdepth.model import FastTokenizer
from jaxdepth.prompts.chat import PromptEncoder
from jaxdepth.prompts.prompt import Message
from jaxdepth.prompts.template import render, which_print_date

MAX_TURNS = 64  # user messages of a conversation
_AT_ONCE = 8  # forms of up to as many turns are rendered together: each rendering is a new process
ROLES = ("system", "user", "assistant")
# Private-use characters: no template has them.
_PLACEHOLDER = re.compile("\ue000([0-9]+)\ue001")
_BEFORE, _AFTER = "\t", "\n"  # white space around a placeholder shows what a template strips


class _Form(NamedTuple):
    """What decides how a conversation is rendered."""

    has_system: bool
    turns: int  # user messages
    has_prefill: bool

    @property
    def roles(self) -> list[str]:
        turns = ["user", "assistant"] * self.turns
        return ["system"] * self.has_system + (turns if self.has_prefill else turns[:-1])

    def __str__(self) -> str:
        parts = ["a system message"] * self.has_system + ["a prefilled reply"] * self.has_prefill
        turns = [f"{self.turns} user messages"] if self.turns > 1 or not parts else []
        return " and ".join(turns + parts)


class _Slot(NamedTuple):
    """The place of a message in a rendered conversation."""

    message: int
    strips_start: bool
    strips_end: bool


class Written(NamedTuple):
    """A prompt as token ids, and where its parts lie."""

    ids: list[int]
    text_end: int  # position of the last token that has some of the last user message
    lead: str  # what the template writes between that message and the reply
    prefill: str = ""  # the given start of the reply, as the template shows it
    prefill_ends: tuple[int, ...] = ()  # how many characters of it its first 1, 2, ... tokens have


# Token ids, or ordinary text that is tokenised together: the template's own and messages.
_Run = list[int] | list[str | _Slot]


class ConversationEncoder:
    """Turns conversations into token ids; safe to use from several threads."""

    def __init__(self, tokenizer: FastTokenizer, encoder: PromptEncoder):
        """Take a tokenizer and its encoder; see `PromptEncoder` for their errors."""
        self._tokenizer, self.encoder = tokenizer, encoder
        # By form: runs, and the text before the reply; or why it cannot be rendered.
        self._rendered: dict[_Form, tuple[list[_Run], str] | str] = {}
        self._dated: set[_Form] = set()
        self._lock = threading.Lock()
        self.date = encoder.date  # that prompts depend on so far, as YYYY-MM-DD; None: on none

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The token ids of a conversation, up to where the reply begins.

        Args:
            messages: from `read_messages`.

        Raises:
            InputError: as `write`.
        """
        return self.write(messages).ids

    def write(self, messages: Sequence[Message], prefill: str | None = None) -> Written:
        """A conversation as token ids, and where its parts lie.

        Without a chat template (a base model) the parts stand as plain text: a system message and a
        blank line, the user's text, and the prefill after a space.

        Args:
            messages: from `read_messages`.
            prefill: the start of the reply; None or an empty one is none.

        Raises:
            InputError: the chat template has no place for such a conversation, or there is no
                template and more than one user message.
        """
        if not self.encoder.has_template:
            return self._write_plain(messages, prefill or "")
        if len(messages) == 1 and messages[0].role == "user" and not prefill:
            return Written(*self.encoder.locate(messages[0].content), self.encoder.reply_opening)
        if prefill:
            messages = [*messages, Message("assistant", prefill)]
        runs, lead = self._runs(_form_of(messages))
        last_user = max(n for n, message in enumerate(messages) if message.role == "user")
        written = Written([], 0, lead)
        for run in runs:
            if isinstance(run[0], int):
                written.ids.extend(token for token in run if isinstance(token, int))
            else:
                items = [item for item in run if not isinstance(item, int)]
                texts = [_stripped(item, messages) for item in items]
                slots = [item.message if isinstance(item, _Slot) else -1 for item in items]
                places = {slot: sum(map(len, texts[:n])) for n, slot in enumerate(slots)}
                written = self._add(
                    written,
                    "".join(texts),
                    text=_part(texts, slots, places, last_user),
                    prefill=_part(texts, slots, places, len(messages) - 1) if prefill else None,
                )
        return written

    def _add(
        self,
        written: Written,
        joined: str,
        text: tuple[int, str] | None,
        prefill: tuple[int, str] | None,
    ) -> Written:
        """Add ordinary text; of the user's last message and the prefill also where they start."""
        spans = self.encoder.spans(joined)
        before = len(written.ids)
        written.ids.extend(token for token, _, _ in spans)
        if text is not None:
            end = text[0] + len(text[1].rstrip())
            count = sum(start < end for _, start, _ in spans)
            written = written._replace(text_end=max(before + count - 1, 0))
        if prefill is not None:
            start, shown = prefill
            ends = [min(end - start, len(shown)) for _, _, end in spans if end > start]
            written = written._replace(prefill=shown, prefill_ends=tuple(ends))
        return written

    def _write_plain(self, messages: Sequence[Message], prefill: str) -> Written:
        if sum(message.role == "user" for message in messages) > 1:
            raise InputError(
                "this model has no chat template, so that earlier turns have no place: write them "
                "into the text, or into the system prompt"
            )
        *system, user = [message.content for message in messages]
        before = "".join(f"{text}\n\n" for text in system)
        asked = before + user
        spaced = prefill[:1].isspace() or asked[-1:].isspace() or not prefill
        asked_spaced = asked if spaced else f"{asked} "
        written = Written(self.encoder.encode_alone(""), 0, "")
        return self._add(
            written,
            asked_spaced + prefill,
            text=(len(before), asked[len(before) :]),
            prefill=(len(asked_spaced), prefill) if prefill else None,
        )

    def _runs(self, form: _Form) -> tuple[list[_Run], str]:
        with self._lock:
            if form not in self._rendered:
                self._render(form)
        if form in self._dated:
            self.date = self.encoder.day
        rendered = self._rendered[form]
        if isinstance(rendered, str):
            raise InputError(f"the chat template has no place for {form} ({rendered})")
        return rendered

    def _render(self, form: _Form) -> None:
        turns = range(1, _AT_ONCE + 1) if form.turns <= _AT_ONCE else [form.turns]
        prefilled = form.has_prefill
        forms = [_Form(has_system, n, prefilled) for n in turns for has_system in (False, True)]
        conversations = [
            (_placeholders(f, *around), not prefilled) for f in forms for around in _AROUND
        ]
        is_dated = which_print_date(self._tokenizer, conversations)[::2]
        self._dated |= {one for one, dated in zip(forms, is_dated, strict=True) if dated}
        rendered = render(self._tokenizer, conversations, self.encoder.day)
        for n, one in enumerate(forms):
            plain, spaced = rendered[2 * n : 2 * n + 2]
            if plain.text is None or spaced.text is None:
                self._rendered[one] = plain.reason or spaced.reason or "it cannot be rendered"
                continue
            try:
                items = list(_items(plain.text, spaced.text, len(one.roles)))
                if one.has_prefill:
                    items = _up_to_prefill(items, len(one.roles) - 1)
                lead = next(item for item in reversed(items) if isinstance(item, str))
                self._rendered[one] = self._encoder_runs(items), lead
            except InputError as error:
                self._rendered[one] = str(error)

    def _encoder_runs(self, items: Sequence[str | _Slot]) -> list[_Run]:
        """Token ids of the template's text from control token to control token, and the rest."""
        runs: list[_Run] = []
        text: list[str | _Slot] = []
        for n, item in enumerate(items):
            if isinstance(item, _Slot):
                text.append(item)
                continue
            before, ids, after = self.encoder.split_at_control(
                item, is_first=n == 0, is_last=n == len(items) - 1
            )
            text.append(before)
            if ids:
                runs += [text, ids]
                text = [after]
        runs.append(text)
        runs = [run for run in runs if any(run)]
        if self.encoder.spaces_first_word and not isinstance(runs[0][0], int) and len(runs) > 1:
            raise InputError("it begins with no control token, and the tokenizer needs one there")
        return runs


_AROUND = (("", ""), (_BEFORE, _AFTER))


def _placeholders(form: _Form, before: str, after: str) -> list[dict]:
    return [
        {"role": role, "content": f"{before}\ue000{n}\ue001{after}"}
        for n, role in enumerate(form.roles)
    ]


def _items(plain: str, spaced: str, count: int) -> Iterator[str | _Slot]:
    """A rendered conversation as the template's texts and the messages between them."""
    texts, places = _PLACEHOLDER.split(plain)[::2], _PLACEHOLDER.findall(plain)
    spaced_texts = _PLACEHOLDER.split(spaced)[::2]
    shown = sorted(map(int, places))
    if shown != list(range(count)) or _PLACEHOLDER.findall(spaced) != places:
        lacking = [str(n) for n in range(count) if shown.count(n) != 1]
        raise InputError(f"it does not show message {listed(lacking)} exactly once")
    keeps_start, keeps_end = [], []  # of the message after each text, and of the one before it
    for n, (text, other) in enumerate(zip(texts, spaced_texts, strict=True)):
        options = {
            ("" if not end else _AFTER) + text + ("" if not start else _BEFORE): (end, start)
            for end in ((False, True) if n else (False,))
            for start in ((False, True) if n < count else (False,))
        }
        if other not in options:
            raise InputError("it changes the text of messages")
        kept_end, kept_start = options[other]
        keeps_end.append(kept_end)
        keeps_start.append(kept_start)
    yield texts[0]
    for n, place in enumerate(places):
        yield _Slot(int(place), not keeps_start[n], not keeps_end[n + 1])
        yield texts[n + 1]


def _up_to_prefill(items: list[str | _Slot], prefill: int) -> list[str | _Slot]:
    """A rendered conversation without what the template writes after a reply."""
    *kept, last, after = items
    if not isinstance(last, _Slot) or last.message != prefill:
        raise InputError("it writes another message after it")
    # As transformers has it: white space at its end stays where a space follows a whole reply.
    strips_end = last.strips_end and not str(after).startswith(" ")
    return [*kept, last._replace(strips_end=strips_end)]


def _part(
    texts: Sequence[str], slots: Sequence[int], places: Mapping[int, int], message: int
) -> tuple[int, str] | None:
    """Where a message starts among texts, and what is shown of it; None where it is elsewhere."""
    if message not in slots:
        return None
    return places[message], texts[slots.index(message)]


def _stripped(item: str | _Slot, messages: Sequence[Message]) -> str:
    if isinstance(item, str):
        return item
    text = messages[item.message].content
    text = text.lstrip() if item.strips_start else text
    return text.rstrip() if item.strips_end else text


def _form_of(messages: Sequence[Message]) -> _Form:
    roles = [message.role for message in messages]
    return _Form(roles[0] == "system", roles.count("user"), roles[-1] == "assistant")


def read_messages(messages: object) -> list[Message]:
    """Check a conversation: perhaps a system message, then user and assistant by turns.

    Args:
        messages: a sequence of mappings with `role` and `content`, both strings. The last is the
            user's.

    Raises:
        InputError: names the message that is wrong.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("messages: expected a list of one message or more")
    read: list[Message] = []
    for n, message in enumerate(messages):
        where = f"messages[{n}]"
        if not isinstance(message, Mapping):
            raise InputError(f"{where}: expected an object with role and content")
        unknown = [str(key) for key in message if key not in ("role", "content")]
        if unknown:
            raise InputError(f"{where}: {unknown[0]!r} is not supported: leave it out")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise InputError(f"{where}: role is {role!r}, expected {listed(ROLES)}")
        if not isinstance(content, str):
            raise InputError(f"{where}: content is no string; only text is supported")
        if any("\ud800" <= character <= "\udfff" for character in content):
            raise InputError(f"{where}: content holds half of a surrogate pair: send UTF-8")
        expected = _roles_after(read)
        if role not in expected:
            raise InputError(
                f"{where}: role is {role!r}, expected {' or '.join(expected)}: user and assistant "
                "take turns, after one system message at most"
            )
        read.append(Message(str(role), content))
    if read[-1].role != "user":
        raise InputError(f"messages: the last is by {read[-1].role!r}, expected one by 'user'")
    if sum(message.role == "user" for message in read) > MAX_TURNS:
        raise InputError(f"messages: more than {MAX_TURNS} by the user: leave the oldest out")
    return read


def _roles_after(messages: Sequence[Message]) -> tuple[str, ...]:
    if not messages:
        return ("system", "user")
    return ("assistant",) if messages[-1].role == "user" else ("user",)
