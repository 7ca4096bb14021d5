"""OpenAI's own client against the server: equal to offline answers, and nothing of a thought."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from chats.attacks import attack
from chats.served import NAME, request, served
from openai.types.chat import ChatCompletion

import jaxdepth
from jaxdepth.refusal.protocol import VERDICTS, Verdict
from jaxdepth.serving.responder import Response
from jaxdepth.serving.server.replies import Reply

pytestmark = pytest.mark.usefixtures("quick_programs", "prompts_of_one_length")

WORDS = "How do I boil an egg for my friend in the garden without a pot or water".split()


@pytest.fixture(scope="module")
def port(responder):
    with served(responder) as port:
        yield port


@pytest.fixture(scope="module")
def client(port):
    url = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def questions(count: int) -> list[list[dict[str, str]]]:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(count)]
    return [[{"role": "user", "content": text}] for text in texts]


def test_64_clients_get_what_they_get_offline(responder, client):
    chats = questions(64)
    offline = jaxdepth.respond(responder, chats)

    def ask(n: int):
        """Text, finish and decision; every other client streams."""
        parameters = {"model": NAME, "messages": chats[n]}
        if n % 2:
            choice = client.chat.completions.create(**parameters).choices[0]
            return choice.message.content, choice.finish_reason, choice.model_extra["jaxdepth"]
        with client.chat.completions.create(**parameters, stream=True) as stream:
            choices = [chunk.choices[0] for chunk in stream]
        text = "".join(choice.delta.content or "" for choice in choices)
        decisions = [choice.model_extra["jaxdepth"] for choice in choices]
        assert choices[0].delta.role == "assistant"
        assert {d["verdict"] for d in decisions} == {decisions[0]["verdict"]}
        return text, choices[-1].finish_reason, decisions[0]

    with ThreadPoolExecutor(64) as pool:
        online = list(pool.map(ask, range(64)))
    for (text, finish, decision), response in zip(online, offline, strict=True):
        assert (text, finish) == (response.text, response.finish)
        assert (decision["verdict"], decision["exit"]) == (response.verdict, 3)
        assert decision["probabilities"] == pytest.approx(response.probabilities, abs=1e-5)
    assert len({text for text, _, _ in online}) > 10


def test_usage_counts_what_is_visible(responder, client):
    messages = questions(1)[0]
    response = jaxdepth.respond(responder, messages, max_tokens=3)
    completion = client.chat.completions.create(model=NAME, messages=messages, max_tokens=3)
    assert completion.usage.completion_tokens == response.visible_tokens <= 3
    assert completion.usage.prompt_tokens == response.prompt_tokens
    stream = client.chat.completions.create(
        model=NAME, messages=messages, max_tokens=3, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    *chunks, last = stream
    assert all(chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage == completion.usage


def test_a_conversation_goes_on(responder, client):
    """With the assistant's message as the client has it, empty fields included."""
    messages = questions(1)[0]
    message = client.chat.completions.create(model=NAME, messages=messages).choices[0].message
    parts = [{"type": "text", "text": "And"}, {"type": "text", "text": "rice?"}]
    second = [*messages, message.model_dump(), {"role": "user", "content": parts}]
    choice = client.chat.completions.create(model=NAME, messages=second).choices[0]
    said = {"role": "assistant", "content": message.content}
    offline = [*messages, said, {"role": "user", "content": "And\nrice?"}]
    assert choice.message.content == jaxdepth.respond(responder, offline).text


def test_models(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "jaxdepth"
    with pytest.raises(openai.NotFoundError, match="the only model here"):
        client.models.retrieve("another")


def test_what_the_client_raises(client):
    messages = questions(1)[0]
    with pytest.raises(openai.BadRequestError, match="n is 2, expected 1") as raised:
        client.chat.completions.create(model=NAME, messages=messages, n=2)
    assert raised.value.param == "n"
    with pytest.raises(openai.NotFoundError, match="model is 'gpt'") as raised:
        client.chat.completions.create(model="gpt", messages=messages)
    assert raised.value.code == "model_not_found"
    long = [{"role": "user", "content": "an egg " * 200}]
    with pytest.raises(openai.BadRequestError, match="at most 160") as raised:
        client.chat.completions.create(model=NAME, messages=long, stream=True)
    assert raised.value.code == "context_length_exceeded"


def test_a_refusal_that_shows_nothing_is_filtered():
    p = {"refuse": 0.4, "partial": 0.3, "comply": 0.3}
    abstained = Response(Verdict.ABSTAIN, p, "", "content_filter", 3, 9, 0, 5)
    completion = ChatCompletion.model_validate(Reply(NAME).whole(abstained))
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("content_filter", "")
    assert choice.model_extra["jaxdepth"]["verdict"] == "abstain"
    assert completion.usage.completion_tokens == 0


def test_attacks_through_the_server(responder, port):
    """Nothing of the bytes that leave is of a thought: they are those of the offline response."""
    rng = random.Random(11)
    chats = [attack(rng, ("user",), ("system", "user", "assistant", "user")) for _ in range(50)]
    offline = jaxdepth.respond(responder, chats)

    def ask(n: int) -> bytes:
        body = {"model": NAME, "messages": chats[n], "stream": n % 2 == 0}
        status, _, reply = request(port, "POST", "/v1/chat/completions", json.dumps(body))
        assert status == 200
        return reply

    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(ask, range(50)))
    for reply, response in zip(replies, offline, strict=True):
        if reply.startswith(b"data: "):
            *events, done = reply.decode().strip().split("\n\n")
            assert done == "data: [DONE]"
            choices = [json.loads(e.removeprefix("data: "))["choices"][0] for e in events]
            texts = [choice["delta"].pop("content", "") for choice in choices]
            assert choices[0]["delta"].pop("role") == "assistant"
        else:
            choices = json.loads(reply)["choices"]
            texts = [choices[0]["message"].pop("content")]
            assert choices[0]["message"] == {"role": "assistant", "refusal": None}
        assert "".join(texts) == response.text
        finishes = [choice.pop("finish_reason") for choice in choices]
        assert finishes == [None] * (len(choices) - 1) + [response.finish]
        for choice in choices:  # and there is no other field that could hold anything
            decision = choice.pop("jaxdepth")
            assert decision.pop("verdict") == response.verdict
            assert decision.pop("exit") == 3
            assert set(decision.pop("probabilities")) == set(VERDICTS)
            assert not decision
            choice.pop("delta", choice.pop("message", None))
            assert choice == {"index": 0, "logprobs": None}
