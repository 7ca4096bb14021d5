"""A user's text as token ids inside a chat template, safe from typed control tokens.

The template is rendered with a placeholder, so what the user typed never passes through it; and in
a process of its own with limits (template.py), since it is a program from an untrusted file. Its
control tokens are looked up in the template's own parts; the user's part is tokenised without any
control tokens, so that nothing a user types becomes one. Text between two control tokens is
tokenised together, which gives the same ids as Hugging Face for text without control tokens.
An added token that is ordinary text (a word, an indent, a line break) is none: it stays what
Hugging Face makes of it.

A template whose markers are plain text (Mistral v0.1's `[INST]`) cannot be protected that way:
there a typed marker has the tokens of a real one.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date as Date

from jaxdepth.errors import InputError
from jaxdepth.model import FastTokenizer
from jaxdepth.prompts.identity import PROBE, PROBE_DATE, template_digest
from jaxdepth.prompts.template import Rendered, prints_date, render

# Private-use characters: no template or prompt has them.
_PLACEHOLDER = "\ue000user\ue001"
_ANSWER = "\ue000assistant\ue001"
_USER = {"role": "user", "content": _PLACEHOLDER}
_SPACED = {"role": "user", "content": f" {_PLACEHOLDER} "}
_REPLY = {"role": "assistant", "content": _ANSWER}
# Conversations to render, each with a generation prompt or without.
_CONVERSATIONS = (([_USER], True), ([_SPACED], True), ([_USER, _REPLY], False))
# Added tokens that are not marked as special, and still are markers: always, and where the chat
# template writes them. The second bar is the one of DeepSeek's tokens.
_MARKER = re.compile(
    r".*(<[|\uff5c]|[|\uff5c]>).*|</?(think|thinking|thought|reasoning)>", re.DOTALL
)
_TEMPLATE_MARKER = re.compile(r"<[^<>\s]+>|\[/?[A-Z][A-Z0-9_]*\]")


class PromptEncoder:
    """Turns instructions into token ids for one tokenizer.

    Without a chat template (a base model) the text stands alone, after the BOS token if the
    tokenizer adds one.
    """

    def __init__(
        self, tokenizer: FastTokenizer, system: str | None = None, date: str | None = None
    ):
        """Take a transformers fast tokenizer.

        Args:
            tokenizer: with a chat template or without.
            system: a system prompt that we wrote ourselves: unlike a user's text it passes through
                the template. None is the template's own, if it has one.
            date: the day for a template that prints one, as YYYY-MM-DD; by default today.

        Raises:
            InputError: the chat template cannot be rendered, takes too long or too much memory, or
                does not show the user's text.
        """
        from tokenizers import Tokenizer

        backend = tokenizer.backend_tokenizer
        spec = json.loads(backend.to_str())
        # Ordinary text may become this id too: that of characters without a token.
        unknown = backend.token_to_id(spec["model"].get("unk_token") or "")
        self.control_ids = _control_ids(tokenizer) - {unknown}
        added = tokenizer.added_tokens_decoder.items()
        self._control_of = {str(token): i for i, token in added if i in self.control_ids}
        self.has_template = bool(tokenizer.chat_template)
        first = [] if system is None else [{"role": "system", "content": system}]
        conversations = [(first + messages, opens) for messages, opens in _CONVERSATIONS]
        is_dated = self.has_template and prints_date(tokenizer, conversations)
        self.day = date or Date.today().isoformat()  # what the template is told
        self.date = self.day if is_dated else None  # None where no prompt depends on it
        self.template_digest: str | None = None  # of what the template renders on that day
        rendered: list[Rendered] = []
        if self.has_template:
            # Together: each rendering is a new process.
            everything = [*conversations, *PROBE]
            rendered = render(tokenizer, everything, self.date or PROBE_DATE)
            probe = [one.text for one in rendered[len(conversations) :]]
            self.template_digest = template_digest(probe, _template_markers(tokenizer))
        parts = _parts_of(rendered[: len(conversations)])
        self._before, self._after, self._strips, lead = parts
        # Everything up to the template's last control token before the text, and from its first
        # one after it: both are tokenised once, control tokens included.
        cut = self._last_control_end(backend, self._before)
        self._prefix_ids = backend.encode(self._before[:cut], add_special_tokens=False).ids
        self._head = self._before[cut:]
        cut = self._first_control_start(backend, self._after)
        self._tail = self._after[:cut]
        self._suffix_ids = backend.encode(self._after[cut:], add_special_tokens=False).ids
        self._answer_lead = lead[self._last_control_end(backend, lead) :]
        # The part of that lead that the generation prompt already has.
        self._opened = self._after[self._last_control_end(backend, self._after) :]
        self._bos_ids = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        if not self.has_template:
            self._prefix_ids = self._bos_ids
        ordinary = {str(t): i for i, t in added if i not in self.control_ids and i != unknown}
        spec = _without_control_tokens(spec, ordinary, bool(self._prefix_ids))
        # Whether ordinary text at the start of a prompt has other tokens than elsewhere in it.
        self.spaces_first_word = '"first"' in json.dumps(spec.get("pre_tokenizer"))
        self._backend = backend
        self._plain = Tokenizer.from_str(json.dumps(spec))
        # Without the control tokens, later added tokens move up: back to their own ids.
        self._own_ids = {self._plain.token_to_id(token): i for token, i in ordinary.items()}

    @property
    def reply_opening(self) -> str:
        """The template's text between the user's and a reply."""
        return self._after

    def encode(self, text: str) -> list[int]:
        """The token ids of a prompt with `text` as its only user message."""
        return self.locate(text)[0]

    def locate(self, text: str) -> tuple[list[int], int]:
        """The token ids of such a prompt, and the position of the last that has some of `text`.

        White space at the end of the text does not count. All tokens after that position are the
        template's. For an empty text it is the position before the template's next token.
        """
        text = text.strip() if self._strips else text
        spans = self.spans(self._head + text + self._tail)
        end = len(self._head) + len(text.rstrip())
        text_tokens = sum(start < end for _, start, _ in spans)
        ids = self._prefix_ids + [token for token, _, _ in spans] + self._suffix_ids
        return ids, max(len(self._prefix_ids) + text_tokens - 1, 0)

    def encode_alone(self, text: str) -> list[int]:
        """The token ids of a text outside the template, after the BOS token if there is one."""
        return self._bos_ids + self.encode_text(text)

    def encode_text(self, text: str) -> list[int]:
        """The token ids of ordinary text without BOS; never a control token."""
        return [token for token, _, _ in self.spans(text)]

    def split_at_control(
        self, text: str, *, is_first: bool = False, is_last: bool = False
    ) -> tuple[str, list[int], str]:
        """A template's text: what is before its control tokens, their ids, and what is after them.

        The ids are those from the first control token to the last, or from the start of the text
        where it is the first of a prompt, or to its end where it is the last. A text without
        control tokens is all before.
        """
        start = self._first_control_start(self._backend, text)
        end = self._last_control_end(self._backend, text)
        if start >= end:
            return text, [], ""
        start, end = 0 if is_first else start, len(text) if is_last else end
        ids = self._backend.encode(text[start:end], add_special_tokens=False).ids
        return text[:start], ids, text[end:]

    def user_turn(self) -> tuple[list[int], int]:
        """The token ids that open a user's turn, and the one that ends it.

        A model that continues the opening writes a prompt itself.

        Raises:
            InputError: there is no template, or it ends a user's turn with no control token.
        """
        if not self._suffix_ids or self._tail:
            raise InputError("this chat template ends a user's turn with no control token")
        return self._prefix_ids + self.encode_text(self._head), self._suffix_ids[0]

    def answer_start(self, answer: str) -> int | None:
        """The id that `answer` is as the first token of a reply; None if it is not one token.

        A reply begins as the template writes one: right after a control token or a line break, or
        after a space, which is then part of the token.
        """
        return self._last_token(self._answer_lead, answer)

    def reply(self, text: str) -> list[int]:
        """The token ids of an answer's text after the generation prompt."""
        ids = self.encode_text(self._answer_lead + text)
        opened = self.encode_text(self._opened)
        return ids[len(opened) :] if ids[: len(opened)] == opened else self.encode_text(text)

    def marker(self, text: str) -> list[int]:
        """The token ids of a marker in a reply: a control token, or those of plain text.

        Raises:
            InputError: the text gives no token at all.
        """
        control = self._control(text)
        ids = self.encode_text(text) if control is None else [control]
        if not ids:
            raise InputError(f"the marker {text!r} has no tokens")
        return ids

    def word_after(self, marker: str, word: str) -> int | None:
        """The id that `word` is right after a marker; None if it is not one token.

        After plain text a word stands after a space, which is then part of the token.
        """
        control = self._control(word)
        if control is not None:
            return control
        lead = "" if self._control(marker) is not None else marker
        return self._last_token(lead if not lead or lead[-1].isspace() else f"{lead} ", word)

    def _control(self, text: str) -> int | None:
        return self._control_of.get(text)

    def _last_token(self, lead: str, word: str) -> int | None:
        """The id of `word` after `lead`, if it is one token, with white space before it or none."""
        tokens = self._plain_tokens(lead + word)
        if not tokens:
            return None
        last, start, end = tokens[-1]
        whole = end == len(lead + word) and not (lead + word)[start : len(lead)].strip()
        return last if start <= len(lead) and whole else None

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """Ids of ordinary text without BOS, each with where it starts and ends in it.

        Merges that spell a control token are broken up.
        """
        spans: list[tuple[int, int, int]] = []
        parts = [(0, text)]
        while parts:
            start, part = parts.pop()
            encoded = self._plain_tokens(part)
            bad = [place for token, *place in encoded if token in self.control_ids]
            if not bad:
                spans += [(token, start + a, start + b) for token, a, b in encoded]
                continue
            cuts = [0, *(_middle(part, *place) for place in bad), len(part)]
            parts += [(start + a, part[a:b]) for a, b in itertools.pairwise(cuts)][::-1]
        return spans

    def _plain_tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Ids, starts and ends, with what merges alone make of a typed marker."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return [
            (self._own_ids.get(i, i), start, end)
            for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def _last_control_end(self, backend, text: str) -> int:
        encoding = backend.encode(text, add_special_tokens=False)
        ends = [
            e[1]
            for i, e in zip(encoding.ids, encoding.offsets, strict=True)
            if i in self.control_ids
        ]
        return ends[-1] if ends else 0

    def _first_control_start(self, backend, text: str) -> int:
        encoding = backend.encode(text, add_special_tokens=False)
        starts = [
            o[0]
            for i, o in zip(encoding.ids, encoding.offsets, strict=True)
            if i in self.control_ids
        ]
        return starts[0] if starts else len(text)


def _parts_of(rendered: Sequence[Rendered]) -> tuple[str, str, bool, str]:
    """The template's text around the user's.

    Args:
        rendered: `_CONVERSATIONS`; nothing where there is no template.

    Returns:
        The text before the user's and after it, whether the template strips the user's text, and
        the text between the user's and a reply in a finished conversation.
    """
    if not rendered:
        return "", "", False, " "  # a base model continues the text
    *prompts, finished = rendered
    for text, reason in prompts:
        if text is None:
            raise InputError(f"the chat template cannot be rendered ({reason})")
        if text.count(_PLACEHOLDER) != 1:
            raise InputError(
                f"the chat template shows the user's text {text.count(_PLACEHOLDER)} times, "
                "expected once"
            )
    before, _, after = (prompts[0].text or "").partition(_PLACEHOLDER)
    lead, has_answer, _ = (finished.text or "").partition(_PLACEHOLDER)[2].partition(_ANSWER)
    # Where a template renders no replies they follow the generation prompt.
    return before, after, prompts[1] == prompts[0], lead if has_answer else after


def _middle(text: str, start: int, end: int) -> int:
    """Where to break up a token of several characters."""
    middle = max(start + 1, (start + end) // 2)
    if middle >= end:
        raise InputError(f"the character {text[start:end]!r} is a control token: remove it")
    return middle


def _adds_bos(tokenizer) -> bool:
    ids = tokenizer("")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def _control_ids(tokenizer: FastTokenizer) -> frozenset[int]:
    """The ids of added tokens that structure a conversation or text, rather than being text."""
    added = tokenizer.added_tokens_decoder.items()
    named, written = set(tokenizer.all_special_ids), _template_markers(tokenizer)
    return frozenset(
        i
        for i, token in added
        if i in named
        or token.special
        or _MARKER.fullmatch(token.content)
        or token.content in written
    )


def _template_markers(tokenizer: FastTokenizer) -> set[str]:
    """The added tokens that look like markers and that the chat template writes."""
    template = str(tokenizer.chat_template or "")
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    return {text for text in added if _TEMPLATE_MARKER.fullmatch(text) and text in template}


def _without_control_tokens(spec: dict, ordinary: Mapping, follows_control_token: bool) -> dict:
    """A tokenizer.json with only the added tokens that are `ordinary` text."""
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in ordinary]
    spec["post_processor"] = None
    if follows_control_token:  # "first" puts a space before the first word of a whole prompt only
        steps = spec.get("pre_tokenizer") or {}
        for step in (steps, *steps.get("pretokenizers", [])):
            if step.get("type") == "Metaspace" and step.get("prepend_scheme") == "first":
                step["prepend_scheme"] = "never"
    return spec
