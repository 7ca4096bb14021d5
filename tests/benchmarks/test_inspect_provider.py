"""The model provider of Inspect: its answers are those of a plain loop over prompts."""

import asyncio
import tomllib
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("inspect_ai", reason="the extra [inspect] is not installed")

import inspect_ai
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    get_model,
)
from inspect_ai.tool import ToolInfo

import jaxdepth
from jaxdepth.benchmarks.inspect import provider
from jaxdepth.benchmarks.inspect.engine import Engine, open_engine
from jaxdepth.errors import InputError
from jaxdepth.prompts.conversation import read_messages
from jaxdepth.study.answers import decode_reply
from jaxdepth.study.settings import AdaptedModel

pytestmark = pytest.mark.usefixtures("quick_programs")
ROOT = Path(__file__).parents[2]
FOUR = GenerateConfig(max_tokens=4)
ROWS, LENGTH = 4, 160  # of all batches


@pytest.fixture(scope="module", autouse=True)
def _one_shape():
    """A program for each number of rows and each length would take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxdepth.benchmarks.inspect.queue._QUIET_SECONDS", 0.05)
        patch.setattr("jaxdepth.benchmarks.inspect.engine.padded_rows", lambda count, most: ROWS)
        patch.setattr("jaxdepth.benchmarks.inspect.engine._SHORTEST", LENGTH)
        yield


@pytest.fixture(scope="module")
def models(tiny_path):
    """The model at exits 2 and 4, which share one engine."""
    return {e: get_model(f"jaxdepth/{tiny_path}", exit=e) for e in (2, 4)}


@pytest.fixture(scope="module")
def engine(models) -> Engine:
    assert models[2].api.engine is models[4].api.engine
    return models[2].api.engine


def ask(model, messages, config=FOUR, **more):
    return asyncio.run(model.generate(messages, config=config, **more))


def slow_answer(engine: Engine, messages: list[dict], exit_layer: int, new_tokens=4) -> list[int]:
    """One prompt at one exit by `jaxdepth.generate`: tokens, the end token included."""
    ids = engine.conversations.encode(read_messages(messages))
    tokens_BS = np.zeros((ROWS, LENGTH), np.int32)
    tokens_BS[:, : len(ids)] = ids
    lengths_B, ends = np.full(ROWS, len(ids)), engine.loaded.end_tokens
    generation = jaxdepth.generate(
        engine.loaded.model, tokens_BS, lengths_B, [2, 4], new_tokens, stop_tokens=ends
    )
    e = [2, 4].index(exit_layer)
    return generation.tokens[0, e, : generation.lengths[0, e]].tolist()


def plain_text(engine: Engine, tokens: list[int]) -> str:
    ends = set(engine.loaded.end_tokens)
    return decode_reply(engine.loaded.tokenizer, [t for t in tokens if t not in ends])


CHATS = [
    [{"role": "user", "content": "How do I paint a table?"}],
    [{"role": "user", "content": "Why?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "How do I paint a garden?"},
        {"role": "assistant", "content": "Slowly."},
        {"role": "user", "content": "And why?"},
    ],
]
KINDS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def as_inspect(messages: list[dict]) -> list:
    return [KINDS[m["role"]](content=m["content"]) for m in messages]


def test_answers_of_all_exits_at_once_are_those_of_a_plain_loop(models, engine, monkeypatch):
    batches = []
    answer = engine.queue._answer
    monkeypatch.setattr(engine.queue, "_answer", lambda b: batches.append(b) or answer(b))

    async def ask_all():
        asked = [m.generate(as_inspect(c), config=FOUR) for c in CHATS for m in models.values()]
        return await asyncio.gather(*asked)

    outputs = asyncio.run(ask_all())
    assert [(len(b.requests), b.exits) for b in batches] == [(3, [2, 4])]
    for n, chat in enumerate(CHATS):
        for k, exit_layer in enumerate(models):
            output, tokens = outputs[2 * n + k], slow_answer(engine, chat, exit_layer)
            assert output.completion == plain_text(engine, tokens)
            ends = tokens[-1] in engine.loaded.end_tokens
            assert output.stop_reason == ("stop" if ends else "max_tokens")
            length = len(engine.conversations.encode(read_messages(chat)))
            assert output.usage.input_tokens == length
            assert output.usage.output_tokens == len(tokens)
            assert output.usage.total_tokens == length + len(tokens)
            assert output.metadata == {"exit": exit_layer}


def test_stop_sequences_cut_the_text_and_the_count(models, engine):
    tokens = slow_answer(engine, CHATS[0], 4)
    text = plain_text(engine, tokens)
    stop = text[len(plain_text(engine, tokens[:1])) :][:2]
    assert stop
    config = GenerateConfig(max_tokens=4, stop_seqs=["never there", stop])
    output = ask(models[4], as_inspect(CHATS[0]), config)
    assert output.completion == text[: text.index(stop)]
    assert output.stop_reason == "stop"
    needed = next(n for n in range(1, 5) if stop in plain_text(engine, tokens[:n]))
    assert output.usage.output_tokens == needed < 4


def test_samples_differ_by_epoch_and_are_drawn_again_alike(models):
    def texts():
        dataset = [inspect_ai.dataset.Sample(id="a", input="How do I paint a table?", target="e")]
        task = inspect_ai.Task(dataset=dataset, scorer=inspect_ai.scorer.includes(), name="t")
        logs = inspect_ai.eval(
            task,
            model=list(models.values()),
            epochs=4,
            display="none",
            log_dir="logs",
            max_connections=16,
            max_tokens=4,
            temperature=1.5,
        )
        return [{s.epoch: s.output.completion for s in log.samples} for log in logs]

    first = texts()
    assert all(len(set(by_epoch.values())) > 1 for by_epoch in first)
    assert texts() == first


@pytest.fixture(autouse=True)
def _in_own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"logprobs": True}, "logprobs is True"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"num_choices": 2}, "num_choices is 2"),
        ({"logit_bias": {1: 2.0}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is 0.5"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p"),
        ({"stop_seqs": [""]}, "stop_seqs"),
    ],
)
def test_settings_that_are_not_supported_are_refused_by_name(models, config, says):
    with pytest.raises(InputError, match=says):
        ask(models[2], "Hello", GenerateConfig(**config))


def test_settings_that_ask_for_nothing_are_none(models):
    config = GenerateConfig(
        max_tokens=4, num_choices=1, logprobs=False, max_retries=3, reasoning_effort="high"
    )
    assert ask(models[2], "Why?", config).completion == ask(models[2], "Why?").completion


def test_what_is_no_text_is_refused(models):
    tool = ToolInfo(name="search", description="Search.")
    cases = [
        ([ChatMessageUser(content="Hello")], [tool], "search"),
        (
            [ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])],
            [],
            "image",
        ),
        ([ChatMessageUser(content="a"), ChatMessageAssistant(content="b")], [], "the last is by"),
    ]
    for messages, tools, says in cases:
        with pytest.raises(InputError, match=says):
            ask(models[2], messages, tools=tools)
    parts = [ContentText(text="How do I"), ContentText(text="paint a table?")]
    joined = ask(models[2], [ChatMessageUser(content=parts)])
    assert joined.completion == ask(models[2], "How do I\npaint a table?").completion


def test_a_conversation_that_fills_the_model_has_no_answer(models, engine):
    output = ask(models[2], "table " * 300)
    assert (output.completion, output.stop_reason) == ("", "model_length")
    assert "this model takes 256" in output.error


def test_an_answer_ends_where_the_model_has_no_room(models, engine, monkeypatch):
    requests = []

    def submit(request, exit_layer):
        requests.append(request)
        future = Future()
        future.set_result(engine._read(np.full(request.max_tokens, 50), request))
        return future

    monkeypatch.setattr(engine.queue, "submit", submit)
    room = engine.limit - LENGTH
    for asked, ended in (
        (room, "max_tokens"),
        (room + 1, "model_length"),
        (10_000, "model_length"),
    ):
        output = ask(models[2], "Why?", GenerateConfig(max_tokens=asked))
        assert (output.stop_reason, output.usage.output_tokens) == (ended, room)
    # A longer prompt is not padded beyond the model.
    length = 3 + len(engine.conversations.encode(read_messages(CHATS[0])))
    assert engine.room(200) == 56
    assert engine.room(length) == room
    assert engine.room(256) == 0


def test_arguments_are_understood_or_refused(tiny_path, tmp_path, engine):
    place = f"jaxdepth/{tiny_path}"
    assert open_engine(AdaptedModel(tiny_path)) is engine
    assert get_model(place).api.exit_layer == 4
    cases = [
        (place, {"exit": 5}, "exit 5 is out of range"),
        (place, {"exits": 3}, "did you mean 'exit'"),
        (place, {"batch_size": 0}, "batch_size"),
        (place, {"memory_gb": 0}, "memory_gb"),
        (place, {"dtype": "float8"}, "dtype"),
        (place, {"adapter": str(tmp_path / "none.safetensors")}, "none.safetensors"),
        (f"jaxdepth/{tmp_path}", {}, "jaxdepth convert"),
    ]
    for name, arguments, says in cases:
        with pytest.raises(InputError, match=says):
            get_model(name, **arguments)
    with pytest.raises(InputError, match="base_url"):
        get_model(place, base_url="http://localhost")


def test_a_thought_is_apart_from_the_answer(models):
    content = models[2].api._content
    assert content("It is blue.") == "It is blue."
    thought, text = content("<think>Hm, the sky.</think>\nIt is blue.")
    assert thought.reasoning == "<think>Hm, the sky.</think>"
    assert text.text == "It is blue."
    thought, text = content("<think>Hm, the")
    assert (thought.reasoning, text.text) == ("<think>Hm, the", "")


def test_inspect_finds_the_provider_by_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = project["entry-points"]["inspect_ai"]["jaxdepth"]
    assert module == provider.__name__
    assert any(
        word.startswith("inspect-ai>=") for word in project["optional-dependencies"]["inspect"]
    )
