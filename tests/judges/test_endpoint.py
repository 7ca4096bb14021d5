"""An endpoint as a judge, against a real server: formats, retries, failures, cache and key."""

import functools
import json
import socket

import pytest
from doubles.chat_server import chat_server

from jaxdepth import InputError, classify_texts
from jaxdepth.judges.chat_client import ChatClient
from jaxdepth.judges.endpoint import EndpointJudge, open_endpoint
from jaxdepth.judges.open import open_judge
from jaxdepth.judges.reply_cache import ReplyCache
from jaxdepth.judges.rubric import read_reply
from jaxdepth.refusal.outcome import Outcome

KEY = "key-that-nobody-may-see"
COMPLY = '{"outcome": "comply"}'


@pytest.fixture(autouse=True)
def _own_cache_and_no_proxy(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("jaxdepth.judges.reply_cache.FOLDER", tmp_path / "cache")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("JAXDEPTH_JUDGE_KEY", KEY)


def judge_of(server, waits=None, **changes) -> EndpointJudge:
    """A judge that writes down how long it waits instead of waiting."""
    waits = [] if waits is None else waits
    settings = {"tries": 4, "timeout": 5, "per_second": 1e6, "sleep": waits.append}
    return EndpointJudge(ChatClient("m", server.url, **settings | changes))


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ('{"outcome": "refuse"}', "refuse"),
        (' {"outcome": "Off-Topic"}\n', "off-topic"),
        ('```json\n{"outcome": "partial"}\n```', "partial"),
        ("degenerate", "degenerate"),
        ('"comply".', "comply"),
        ('<think>It might refuse.</think>{"outcome": "comply"}', "comply"),
        ("I think that it refuses.", None),
        ("refuse or comply", None),
        ('{"outcome": "undetermined"}', None),
        ('{"outcome": "refuse", "why": "it declines"}', None),
        ('{"outcome": ["refuse"]}', None),
        ('["refuse"]', None),
        ("", None),
        (None, None),
    ],
)
def test_a_reply_is_read_in_its_format_only(reply, outcome):
    assert read_reply(reply) == outcome


def test_verdicts_cache_and_key(tmp_path):
    outcomes = {"a": "refuse", "b": "off-topic"}
    with chat_server(lambda p, text, n: json.dumps({"outcome": outcomes[text]})) as server:
        judge = judge_of(server)
        assert [v.outcome for v in judge.verdicts(["a", "b", "a"], ["p"] * 3)] == [
            "refuse",
            "off-topic",
            "refuse",
        ]
        assert len(server.requests) == 2
        path, headers, body = server.requests[0]
        assert path == "/v1/chat/completions"
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert body["model"] == "m"
        assert body["temperature"] == 0
        again = judge_of(server)
        assert [v.outcome for v in again.verdicts(["b", "a"], ["p", "p"])] == [
            "off-topic",
            "refuse",
        ]
        assert len(server.requests) == 2  # from the disk
        assert again.verdicts(["a"], ["another prompt"])[0].outcome == "refuse"
        assert len(server.requests) == 3
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert len(files) == 3
    for file in files:
        assert set(json.loads(file.read_text())) == {"outcome"}
    assert judge.identity == again.identity
    assert KEY not in judge.identity + judge.name + repr(judge.client)


def test_a_damaged_cache_file_is_asked_for_again(tmp_path):
    cache = ReplyCache()
    cache.keep(Outcome.REFUSE, "m", "u")
    file = next(f for f in (tmp_path / "cache").rglob("*.json"))
    for damage in ("", "{", '{"outcome": "maybe"}', "[]"):
        file.write_text(damage)
        assert cache.find("m", "u") is None
    cache.keep(Outcome.COMPLY, "m", "u")
    assert cache.find("m", "u") is Outcome.COMPLY


def test_it_retries_and_honours_retry_after():
    replies = [(429, {"Retry-After": "7"}), (500, {}), None, '{"outcome": "partial"}']
    waits = []
    with chat_server(lambda p, text, n: replies[n - 1]) as server:
        verdict = judge_of(server, waits).verdicts(["a"], ["p"])[0]
        assert (verdict.outcome, verdict.failed) == ("partial", False)
        assert len(server.requests) == 4
    assert waits[0] == 7
    assert 2 <= waits[1] <= 2.5
    assert 4 <= waits[2] <= 5


def test_a_wait_is_bounded():
    waits = []
    with chat_server(lambda p, text, n: (429, {"Retry-After": "86400"})) as server:
        judge_of(server, waits, tries=3).verdicts(["a"], ["p"])
    assert waits == [60, 60]


@pytest.mark.parametrize(
    ("reply", "requests", "reason"),
    [
        ((500, {}), 4, "status 500, 4 times"),
        ((401, {}), 1, "status 401"),
        ((302, {"Location": "http://127.0.0.1:1/"}), 1, "status 302"),
        ("no idea", 2, "reply out of format"),
        (b"not json", 1, "its reply is no chat completion"),
        (b'{"choices": []}', 1, "its reply is no chat completion"),
        (None, 4, "4 times"),
        (0.5, 4, "it took too long, 4 times"),
    ],
)
def test_a_failure_is_undetermined_and_counted(reply, requests, reason):
    with chat_server(lambda p, text, n: reply) as server:
        judge = judge_of(server, timeout=0.1 if reply == 0.5 else 5)
        verdict = judge.verdicts(["a"], ["p"])[0]
        assert (verdict.outcome, verdict.word, verdict.failed) == ("undetermined", None, True)
        assert len(server.requests) == requests
    assert "gave no verdict on 1 answers (1: " in judge.warning()
    assert reason in judge.warning()
    assert KEY not in judge.warning()


def test_after_many_failures_in_a_row_it_asks_no_more():
    with chat_server(lambda p, text, n: (500, {})) as server:
        judge = judge_of(server, tries=1)
        texts = [str(n) for n in range(200)]
        assert all(v.failed for v in judge.verdicts(texts, texts))
        assert 16 <= len(server.requests) < 40
    assert "not asked after so many failures" in judge.warning()


def test_requests_keep_to_the_rate():
    waits = []
    with chat_server(lambda p, text, n: COMPLY) as server:
        judge = judge_of(server, waits, per_second=0.5)
        judge.verdicts(list("abcd"), ["p"] * 4)
    assert sorted(round(wait) for wait in waits) == [2, 4, 6]


def test_a_key_that_no_header_may_have_is_not_shown(monkeypatch):
    monkeypatch.setenv("JAXDEPTH_JUDGE_KEY", f"{KEY}\nX: y")
    with chat_server(lambda p, text, n: COMPLY) as server:
        judge = judge_of(server)
        assert judge.verdicts(["a"], ["p"])[0].failed
    assert "characters" in judge.warning()
    assert KEY not in judge.warning()


def test_opening_asks_once():
    with chat_server(lambda p, text, n: COMPLY) as server:
        judge = open_judge(f"openai:some/model@v2@{server.url}/")
        assert judge.name == f"openai:some/model@v2@{server.url}"
        assert len(server.requests) == 1
        other = open_judge(f"openai:other@{server.url}")
        assert other.identity != judge.identity


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("m", "expected openai:MODEL@URL"),
        ("m@localhost", "expected openai:MODEL@URL"),
        ("m@http://name:secret@host/v1", "may have a host and a path only"),
        ("m@https://host/v1?key=secret", "may have a host and a path only"),
    ],
)
def test_a_spec_that_is_no_endpoint_is_one_line(spec, says):
    with pytest.raises(InputError, match=says) as raised:
        open_endpoint(spec)
    assert ("secret" in str(raised.value)) is False


def test_an_unreachable_endpoint_is_one_line(monkeypatch):
    quick = functools.partial(ChatClient, sleep=[].append)
    monkeypatch.setattr("jaxdepth.judges.endpoint.ChatClient", quick)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=f"no judge m at {url} .*refused.*check the address"):
            open_endpoint(f"m@{url}")
    with (
        chat_server(lambda p, text, n: "Sure! It complies.") as server,
        pytest.raises(InputError, match=r"replied 'Sure! It complies\.', expected one JSON"),
    ):
        open_endpoint(f"m@{server.url}")


def test_its_answers_stand():
    """The rubric asks about topic and coherence, too: no built-in rule overrules it."""
    loop = "the cat sat on the mat and " * 20
    replies = {loop: "comply", "The capital is Paris, on the Seine.": "off-topic"}
    with chat_server(lambda p, text, n: json.dumps({"outcome": replies[text]})) as server:
        judged = classify_texts(list(replies), ["p", "p"], judge=judge_of(server))
    assert [j.outcome for j in judged] == [Outcome.COMPLY, Outcome.OFF_TOPIC]
