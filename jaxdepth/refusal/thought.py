"""What a reply says after its thought.

Reasoning models think inside tags or channels before they answer. Only what follows the thought is
an answer: words of refusal in a thought refuse nothing.
"""

import re

_NAMES = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis)"
# How families open and close a thought: tags (DeepSeek-R1, Qwen3, Claude), brackets (Magistral),
# named tokens (Cohere, OpenThinker), Kimi's signs. Tags may be written with an attribute.
_OPEN = re.compile(
    rf"<(?:seed:)?{_NAMES}(?:\s[^<>]*)?>|\[THINK\]|<\|(?:START_THINKING|begin_of_thought)\|>|◁think▷",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</(?:seed:)?{_NAMES}\s*>|\[/THINK\]|<\|(?:END_THINKING|end_of_thought)\|>|◁/think▷",
    re.IGNORECASE,
)
# Channels of gpt-oss, with their control tokens or as they look when those are left out.
_FINAL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>|(?<=\S)assistantfinal(?=\S)")
_CHANNEL = re.compile(r"<\|channel\|>|\A\s*analysis(?=[A-Z\"'*])")
# Around the answer itself.
_WRAPPERS = re.compile(
    r"</?answer>|<\|(?:begin|end)_of_solution\|>|<\|(?:START|END)_RESPONSE\|>|<\|return\|>|<\|end\|>"
)
# A tag in code is the subject of an answer, not a thought.
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def answer_after_thought(text: str) -> str | None:
    """The part of a reply that follows its thought; the reply itself if it has none.

    A closing tag ends a thought also where no tag opened it: some chat templates open it in the
    prompt. A tag that opens a thought counts at the start of a line, one in code never.

    Returns:
        The answer without white space around it where a thought was cut, or None if the thought
        does not end.
    """
    masked = _CODE.sub(lambda match: " " * len(match.group()), text)
    finals = list(_FINAL.finditer(masked))
    if finals:
        return _unwrapped(text[finals[-1].end() :])
    if _CHANNEL.search(masked):
        return None
    closed = max((match.end() for match in _CLOSE.finditer(masked)), default=None)
    rest = closed or 0
    if any(_starts_line(masked, match.start()) for match in _OPEN.finditer(masked, rest)):
        return None
    return text if closed is None else _unwrapped(text[closed:])


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought, so that a reply to it begins in one."""
    return bool(prompt.strip()) and answer_after_thought(f"\n{prompt.strip()}") is None


def is_thought_marker(token: str) -> bool:
    """Whether a token opens or closes a thought or a channel, or wraps an answer."""
    patterns = (_OPEN, _CLOSE, _WRAPPERS)
    named = ("<|channel|>", "<|message|>", "<|start|>")
    return token in named or any(pattern.fullmatch(token) for pattern in patterns)


def _starts_line(text: str, place: int) -> bool:
    return not text[:place].rpartition("\n")[2].strip()


def _unwrapped(text: str) -> str:
    return _WRAPPERS.sub("", text).strip()
