"""Conversations in files: messages, system prompts and prefills become parts of a prompt."""

import json

import pytest
from folders.prompt_files import BREAD, EGG, write_file

from jaxdepth import InputError
from jaxdepth.prompts.datasets import read_prompts
from jaxdepth.prompts.prompt import Message

SYSTEM = "You are a cook."
TALK = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": BREAD},
    {"role": "assistant", "content": "In an oven."},
    {"role": "user", "content": EGG},
]
SHAREGPT = [
    {"from": "system", "value": SYSTEM},
    {"from": "human", "value": BREAD},
    {"from": "gpt", "value": "In an oven."},
    {"from": "human", "value": EGG},
    {"from": "gpt", "value": "In water."},
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": EGG}]}]
EARLIER = (Message("user", BREAD), Message("assistant", "In an oven."))


@pytest.mark.parametrize("file", ["a.jsonl", "a.parquet", "a.json"])
@pytest.mark.parametrize(
    ("column", "talk"),
    [("messages", TALK), ("conversations", SHAREGPT), ("turns", TALK), ("prompt", TALK)],
)
def test_several_turns(tmp_path, file, column, talk):
    (prompt,) = read_prompts([write_file(tmp_path, file, [{column: talk, "source": "x"}])])
    assert (prompt.system, prompt.earlier, prompt.text) == (SYSTEM, EARLIER, EGG)
    assert prompt.prefill is None


def test_messages_in_a_cell_of_a_csv(tmp_path):
    cell = json.dumps(TALK).replace('"', '""')
    (prompt,) = read_prompts([write_file(tmp_path, "a.csv", f'messages\n"{cell}"\n')])
    assert (prompt.system, prompt.earlier, prompt.text) == (SYSTEM, EARLIER, EGG)
    (prompt,) = read_prompts([write_file(tmp_path, "a.json", [{"messages": PARTS}])])
    assert prompt.text == EGG


def test_a_last_message_of_the_assistant_is_an_answer_or_a_prefill(tmp_path):
    talk = [*TALK, {"role": "assistant", "content": "Sure, "}]
    file = write_file(tmp_path, "a.jsonl", [{"messages": talk}])
    with pytest.raises(InputError, match=r"line 1, column messages ends .*messages:last=answer"):
        read_prompts([file])
    (answer,) = read_prompts([file], ["messages=messages:last=answer"])
    (prefill,) = read_prompts([file], ["messages=messages:last=prefill"])
    assert (answer.text, answer.prefill) == (EGG, None)
    assert (prefill.text, prefill.prefill) == (EGG, "Sure, ")
    file = write_file(tmp_path, "b.jsonl", [{"conversations": SHAREGPT}])
    (prefill,) = read_prompts([file], ["messages=conversations:last=prefill"])
    assert prefill.prefill == "In water."


def test_columns_for_system_prompt_and_prefill(tmp_path):
    rows = [{"prompt": EGG, "system": SYSTEM, "prefill": "Sure,"}, {"prompt": BREAD, "system": ""}]
    one, two = read_prompts([write_file(tmp_path, "a.jsonl", rows)])
    assert (one.system, one.prefill, two.system, two.prefill) == (SYSTEM, "Sure,", None, None)
    rows = [{"messages": TALK, "system": "You are no cook."}]
    file = write_file(tmp_path, "b.jsonl", rows)
    with pytest.raises(InputError, match="line 1: the column system and the messages have diff"):
        read_prompts([file])
    assert read_prompts([file], ["system="])[0].system == SYSTEM


def test_a_copy_of_a_message_is_no_second_prompt(tmp_path):
    row = {"prompt": BREAD, "messages": TALK}
    assert read_prompts([write_file(tmp_path, "a.json", [row])])[0].text == EGG
    file = write_file(tmp_path, "b.json", [row | {"prompt": "Why?"}])
    with pytest.raises(InputError, match="row 1: the columns messages and prompt could each"):
        read_prompts([file])
    assert read_prompts([file], ["prompt=prompt", "drop=messages"])[0].text == "Why?"


def test_few_shot_text_is_text(tmp_path):
    text = "Q: What is two and two?\nA: Four.\n\nQ: What is one and one?\nA:"
    assert read_prompts([write_file(tmp_path, "a.jsonl", [{"prompt": text}])])[0].text == text


USER = {"role": "user", "content": EGG}
WRONG = {
    "turns without replies": ([BREAD, EGG], "holds 2 turns without the replies"),
    "no list": ("Hello there", "is no list of messages"),
    "another role": ([{"role": "narrator", "content": "x"}], "is by 'narrator'; expected one of"),
    "a tool": ([USER, {"role": "tool", "content": "x"}], "is by 'tool'"),
    "calls": ([USER | {"tool_calls": [{"id": 1}]}], "tool_calls is not supported"),
    "an image": ([{"role": "user", "content": [{"type": "image_url"}]}], "the type image_url"),
    "no content": (
        [{"role": "user", "text": EGG}],
        r"\[0\] has the keys role, text",
    ),
    "two in a row": ([USER, USER], "expected assistant: user and assistant take turns"),
    "a late system prompt": ([USER, TALK[0], USER], "role is 'system'"),
    "a NUL": ([{"role": "user", "content": "a\0"}], "NUL"),
    "an empty message": ([{"role": "user", "content": " "}], "is empty"),
    "numbers": ([1, 2], "is a int, expected an object"),
}


@pytest.mark.parametrize("name", WRONG)
def test_conversations_that_are_not_understood(tmp_path, name):
    value, message = WRONG[name]
    file = write_file(tmp_path, "a.jsonl", [{"messages": TALK}, {"messages": value}])
    with pytest.raises(InputError, match=rf"a.jsonl, line 2.*{message}"):
        read_prompts([file])
