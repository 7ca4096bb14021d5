"""A prompt as a row of a table and in the digest of a run."""

from dataclasses import replace

import pyarrow as pa
import pytest

from jaxdepth.errors import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.prompts.prompt import Message, Prompt, prompt_of_row, prompts_digest
from jaxdepth.study.common_tables import PROMPTS

ALONE = Prompt("mine-1", "How do I bake bread?", "harmless", None, None, "mine.csv")
TALK = replace(
    ALONE,
    label=None,
    system="Be brief.",
    earlier=(Message("user", "Hello"), Message("assistant", "Hello! How can I help?")),
    prefill="Sure,",
)


def test_prompts_without_conversation_keep_their_digest():
    """Computed before prompts had a system prompt, earlier turns and a prefill."""
    prompts = read_prompts(["builtin:pairs/test", "builtin:ordinary"])
    assert (
        prompts_digest(prompts)
        == "d93286973cb7dddbf514989d900886e0cd684645e4c7d806b6806b38dbe505e5"
    )


def test_the_digest_covers_every_part():
    parts = ({"label": None}, {"system": ""}, {"system": "x"}, {"prefill": ""}, {"prefill": "x"})
    earlier = ((Message("user", "x"), Message("assistant", "y")), (Message("user", "x"),))
    parts += tuple({"earlier": turns} for turns in earlier)
    digests = {prompts_digest([replace(ALONE, **part)]) for part in ({}, *parts)}
    assert len(digests) == 1 + len(parts)


def test_a_prompt_comes_back_from_its_row():
    for prompt in (ALONE, TALK):
        table = PROMPTS.from_rows([prompt.as_row()])
        assert prompt_of_row(table.to_pylist()[0]) == prompt
    old = pa.Table.from_pylist([ALONE.as_row()], PROMPTS.schema).to_pylist()[0]
    for column in ("system", "earlier", "prefill"):
        old.pop(column)
    assert prompt_of_row(old) == ALONE


@pytest.mark.parametrize(
    "earlier", ["x", "{", "3", "[3]", '[{"role": "user"}]', '[{"role": "user", "content": 3}]']
)
def test_earlier_messages_that_are_none(earlier):
    with pytest.raises(InputError, match=rf"prompt {ALONE.prompt_id} has earlier messages"):
        prompt_of_row(ALONE.as_row() | {"earlier": earlier})
