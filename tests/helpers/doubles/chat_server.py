"""An OpenAI-compatible endpoint on this machine that says what a test tells it to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Replies with `answer(prompt, text, number)` to the request of that number, from 1.

    A string is the reply's content; a tuple (status, headers) an error; a float seconds to wait
    before {"outcome": "comply"}; bytes are sent as they are; None closes the connection.
    """

    daemon_threads = True

    def __init__(self, answer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.requests, self.lock = answer, [], threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = json.loads(body["messages"][-1]["content"])
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), body))
            number = len(self.server.requests)
        reply = self.server.answer(asked["prompt"], asked["answer"], number)
        if reply is None:
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(reply, float):
            time.sleep(reply)
            reply = '{"outcome": "comply"}'
        if isinstance(reply, tuple):
            self._send(reply[0], b"{}", reply[1])
        elif isinstance(reply, bytes):
            self._send(200, reply)
        else:
            content = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
            self._send(200, json.dumps(content).encode())

    def _send(self, status, body, headers=()):
        try:
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # the other side has given up
            self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def chat_server(answer):
    """A running server; it is closed at the end of the block."""
    server = ChatServer(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
