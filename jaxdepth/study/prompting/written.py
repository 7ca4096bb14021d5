"""Prompts as token ids for a model."""

from collections.abc import Sequence
from dataclasses import replace

from jaxdepth.errors import InputError
from jaxdepth.prompts.conversation import ConversationEncoder, Written
from jaxdepth.prompts.prompt import Prompt
from jaxdepth.refusal.thought import opens_thought


def write_prompts(conversations: ConversationEncoder, prompts: Sequence[Prompt]) -> list[Written]:
    """Every prompt as token ids, up to where the model goes on.

    Raises:
        InputError: the chat template has no place for one of them; names it.
    """
    return [_write(conversations, prompt) for prompt in prompts]


def _write(conversations: ConversationEncoder, prompt: Prompt) -> Written:
    try:
        written = conversations.write(prompt.messages, prompt.prefill)
        if written.prefill and opens_thought(written.lead):
            raise InputError("the chat template opens a thought before a prefilled reply")
    except InputError as error:
        raise InputError(f"prompt {prompt.prompt_id} of {prompt.source}: {error}") from None
    return written


def cut_prefill(
    conversations: ConversationEncoder, prompt: Prompt, written: Written, length: int, longest: int
) -> tuple[Prompt, Written]:
    """A prompt with the first tokens of its prefill.

    Args:
        conversations: of the model.
        prompt: with its whole prefill.
        written: the prompt.
        length: in tokens; 0 is without a prefill.
        longest: the length that the prefill must have at least.

    Raises:
        InputError: the prompt has no prefill, or one of fewer tokens.
    """
    count = len(written.prefill_ends)
    if count < longest:
        has = f"a prefill of {count} tokens" if count else "no prefill"
        raise InputError(
            f"prompt {prompt.prompt_id} of {prompt.source} has {has}, and {longest} are asked for: "
            "give it a longer one (--prefill, or a column), or ask for fewer"
        )
    if not length:
        plain = replace(prompt, prefill=None)
        return plain, write_prompts(conversations, [plain])[0]
    part = written.prefill[: written.prefill_ends[length - 1]]
    ids = written.ids[: len(written.ids) - count + length]
    ends = written.prefill_ends[:length]
    cut = written._replace(ids=ids, prefill=part, prefill_ends=ends)
    return replace(prompt, prefill=part), cut
