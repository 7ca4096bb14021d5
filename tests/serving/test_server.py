"""The server under what clients do wrong: bad requests, too many of them, and going away."""

import json
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from chats.served import NAME, Gated, complete, metric, request, served, wait_until

import jaxdepth
from jaxdepth import InputError
from jaxdepth.cli import main
from jaxdepth.serving.server.listen import bind, check_listening
from jaxdepth.serving.settings import Listening

pytestmark = pytest.mark.usefixtures("quick_programs", "prompts_of_one_length")

USER = {"role": "user", "content": "How do I boil an egg?"}
BODY = {"model": NAME, "messages": [USER]}
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
HEAD += b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def port(responder):
    with served(responder, max_body_kib=4) as port:
        yield port


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"", 400, None, "not valid JSON"),
        (b'{"model": ', 400, None, "not valid JSON"),
        (b"[" * 4000, 400, None, "not valid JSON"),
        (b'{"model": "\xff"}', 400, None, "not valid JSON"),
        (b'{"temperature": NaN}', 400, None, "not valid JSON"),
        (b"[1]", 400, None, "no JSON object"),
        (b" " * 4097, 413, None, "more than 4,096 bytes"),
        ({}, 400, "model", "model is missing"),
        ({"model": NAME}, 400, "messages", "messages is missing"),
        ({**BODY, "model": 3}, 404, "model", "model is 3, expected 'tiny'"),
        ({**BODY, "messages": "Hello"}, 400, "messages", "expected a list"),
        ({**BODY, "messages": []}, 400, "messages", "one message or more"),
        ({**BODY, "messages": [1]}, 400, "messages", "messages[0]: expected an object"),
        ({**BODY, "messages": [{"role": "user", "content": 7}]}, 400, "messages", "no string"),
        ({**BODY, "messages": [{**USER, "role": "tool"}]}, 400, "messages", "role is 'tool'"),
        ({**BODY, "messages": [{**USER, "content": [{"type": "image_url"}]}]}, 400, "messages",
         "messages[0]: content has a part that is no text"),
        ({**BODY, "messages": [{**USER, "content": "\ud800"}]}, 400, "messages", "surrogate"),
        ({**BODY, "n": 2}, 400, "n", "n is 2, expected 1: leave it out"),
        ({**BODY, "n": True}, 400, "n", "n is True"),
        ({**BODY, "tools": [{"type": "function"}]}, 400, "tools", "expected []"),
        ({**BODY, "logprobs": True}, 400, "logprobs", "expected false"),
        ({**BODY, "stop": "x"}, 400, "stop", "leave it out"),
        ({**BODY, "response_format": {"type": "json_object"}}, 400, "response_format", "text"),
        ({**BODY, "reasoning_effort": "low"}, 400, "reasoning_effort", "does not support"),
        ({**BODY, "temprature": 0}, 400, "temprature", "did you mean 'temperature'?"),
        ({**BODY, "temperature": 0.7}, 400, "temperature", "samples at 0 alone"),
        ({**BODY, "top_p": 0.5}, 400, "top_p", "samples at 1 alone"),
        ({**BODY, "max_tokens": 7}, 400, "max_tokens", "expected 0 to 6"),
        ({**BODY, "max_tokens": 0}, 400, "max_tokens", "expected 1 or more"),
        ({**BODY, "max_tokens": "3"}, 400, "max_tokens", "expected an integer"),
        ({**BODY, "max_tokens": 3, "max_completion_tokens": 4}, 400, "max_tokens", "differ"),
        ({**BODY, "seed": -1}, 400, "seed", "seed is -1"),
        ({**BODY, "stream": "yes"}, 400, "stream", "expected true or false"),
        ({**BODY, "stream_options": {"include_usage": True}}, 400, "stream_options", "only for"),
        ({**BODY, "user": 3}, 400, "user", "expected a string"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_requests_that_are_refused(port, body, status, param, says):
    actual, reply = complete(port, body)
    assert actual == status
    error = reply["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert says in error["message"]


def test_fields_that_change_nothing(port):
    plain = complete(port, BODY)[1]["choices"]
    more = {"n": 1, "temperature": 0, "top_p": 1, "tools": [], "stop": None, "user": "me",
            "max_completion_tokens": 6, "presence_penalty": 0.0, "stream": False}  # fmt: skip
    assert complete(port, BODY | more)[1]["choices"] == plain


def test_other_paths_methods_types_and_names(port):
    for method, path, status in (
        ("GET", "/", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405),
        ("GET", "/v1/models/other", 404),
    ):  # fmt: skip
        actual, headers, reply = request(port, method, path)
        assert actual == status
        assert json.loads(reply)["error"]["message"]
        assert headers["content-type"] == "application/json"
    status, reply = complete(port, BODY, **{"Content-Type": "text/plain"})
    assert (status, reply["error"]["code"]) == (415, "unsupported_media_type")
    for host in ("evil.example", f"evil.example:{port}", "", "["):
        assert complete(port, BODY, Host=host)[0] == 403
    for host in (f"localhost:{port}", f"[::1]:{port}"):
        assert request(port, "GET", "/health", headers={"Host": host})[0] == 200


def test_a_body_that_is_declared_or_sent_too_large(port):
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
        )
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        connection.sendall(b" " * 4096 * 9)
        assert b" 413 " in connection.recv(4096)
    assert request(port, "GET", "/health")[0] == 200


def test_health_and_metrics(responder):
    with served(responder) as port:
        assert request(port, "GET", "/health")[::2] == (200, b'{"status":"ok"}')
        for _ in range(2):
            assert complete(port, BODY)[0] == 200
        complete(port, {})
        assert metric(port, "jaxdepth_requests_total") == 3
        assert metric(port, 'jaxdepth_requests_total{status="400"}') == 1
        assert metric(port, "jaxdepth_verdicts_total") == 2
        assert metric(port, "jaxdepth_batches_total") == 2
        assert metric(port, "jaxdepth_seconds_to_verdict_count") == 2
        assert metric(port, "jaxdepth_lanes") == 4
        response = jaxdepth.respond(responder, [USER])
        for kind in ("prompt", "hidden", "visible"):
            tokens = metric(port, f'jaxdepth_tokens_total{{kind="{kind}"}}')
            assert tokens == 2 * getattr(response, f"{kind}_tokens")


def test_a_full_queue_says_when_to_come_again(responder):
    gated = Gated(responder)
    with served(gated, max_waiting=3) as port, ThreadPoolExecutor(7) as pool:
        running = [pool.submit(complete, port, BODY)]
        wait_until(lambda: gated.batches)
        running += [pool.submit(complete, port, BODY) for _ in range(3)]
        wait_until(lambda: metric(port, "jaxdepth_waiting") == 3)
        body = json.dumps(BODY)
        status, headers, reply = request(port, "POST", "/v1/chat/completions", body)
        assert status == 429
        assert int(headers["retry-after"]) >= 1
        assert json.loads(reply)["error"]["code"] == "queue_full"
        gated.gate.set()
        assert {future.result()[0] for future in running} == {200}
        assert max(gated.batches) <= 4
        assert metric(port, "jaxdepth_waiting") == 0
        wait_until(lambda: metric(port, "jaxdepth_lanes_busy") == 0)


def test_a_request_that_takes_too_long(responder):
    gated = Gated(responder)
    with served(gated, timeout=0.3) as port:
        status, headers, reply = request(port, "POST", "/v1/chat/completions", json.dumps(BODY))
        assert (status, json.loads(reply)["error"]["code"]) == (504, "timeout")
        assert headers["x-should-retry"] == "false"
        wait_until(lambda: metric(port, "jaxdepth_waiting") == 0)
        gated.gate.set()
        wait_until(lambda: metric(port, "jaxdepth_lanes_busy") == 0)
        status, _ = complete(port, BODY)
        assert status in (200, 504)  # a slow machine may need longer


@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_away_frees_its_lane(responder, streams, caplog):
    gated = Gated(responder)
    with served(gated) as port:
        body = json.dumps(BODY | {"stream": streams}).encode()
        head = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode()
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        for connection in connections:
            connection.sendall(head + body)
        jobs = ("jaxdepth_waiting", "jaxdepth_lanes_busy")
        wait_until(lambda: sum(metric(port, name) for name in jobs) == 6)
        for connection in connections:
            connection.close()
        wait_until(lambda: metric(port, "jaxdepth_given_up_total") == 6)
        assert metric(port, "jaxdepth_waiting") == 0
        gated.gate.set()
        status, reply = complete(port, BODY)
        assert status == 200
        assert reply["choices"][0]["message"]["content"] == jaxdepth.respond(responder, [USER]).text
        assert metric(port, "jaxdepth_verdicts_total") == 1
    # Half a request, then nothing.
    with served(responder) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head + body[:9])
        wait_until(lambda: metric(port, "jaxdepth_given_up_total") == 1)
    assert not caplog.records


def test_a_fault_ends_its_batch_alone(responder, caplog):
    gated = Gated(responder)
    gated.gate.set()
    gated.fail_with(RuntimeError("the thought was: a secret"))
    with served(gated) as port:
        status, reply = complete(port, BODY)
        assert (status, reply["error"]["type"]) == (500, "server_error")
        assert "secret" not in json.dumps(reply) + caplog.text
        assert "a batch failed: RuntimeError" in caplog.text
        gated.fail_with(None)
        assert complete(port, BODY)[0] == 200
        assert request(port, "GET", "/health")[0] == 200


def test_requests_that_run_when_the_server_ends(responder):
    gated = Gated(responder)
    with ThreadPoolExecutor(1) as pool:
        with served(gated) as port:
            future = pool.submit(complete, port, BODY)
            wait_until(lambda: gated.batches)
            threading.Timer(0.3, gated.gate.set).start()  # while the server waits for it
        assert future.result()[0] == 200


def test_addresses(capsys, port):
    assert check_listening(Listening())
    assert check_listening(Listening(host="::1"))
    assert check_listening(Listening(host="127.3.2.1"))
    for host in ("0.0.0.0", "::", "192.168.1.2", "my-machine"):
        with pytest.raises(InputError, match=r"no password.*--allow-remote"):
            check_listening(Listening(host=host))
    assert not check_listening(Listening(host="0.0.0.0", allow_remote=True))
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}"):
        bind(Listening(port=port))
    with pytest.raises(InputError, match=r"cannot listen on nowhere\.invalid"):
        bind(Listening(host="nowhere.invalid"))


def test_a_package_that_is_missing_is_named(deciding_path, monkeypatch, capsys):
    for module in ("listen", "app"):
        monkeypatch.delitem(sys.modules, f"jaxdepth.serving.server.{module}", False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(deciding_path)]) == 2
    assert "serve needs uvicorn: pip install 'jaxdepth[serve]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command(deciding_path):
    words = ["serve", deciding_path, "--port", 0, "--protocol", "tuned", "--thought-tokens", 2]
    words += ["--answer-tokens", 3, "--exit", 2, "--name", NAME]
    command = [sys.executable, "-m", "jaxdepth", *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as server:
        line = server.stdout.readline()
        assert line.startswith(f"Serving {NAME} at exit 2 on http://127.0.0.1:")
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        assert complete(port, BODY)[0] == 200
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=60) == ("", "stopped\n")
    assert server.returncode == 0
