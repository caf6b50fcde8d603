"""Chat server of the tests: OpenAI's protocol on a free port, answered by a function."""

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class ChatServer(ThreadingHTTPServer):
    """Counts requests; those with a picture of more than the check's 128 x 128 pixels are rows.

    `respond(picture, body)` returns a text, a whole answer as a dict, raw bytes, or (status, dict),
    and may sleep.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, respond: Callable[[Image.Image, dict], Any], port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.respond = respond
        self.rows: list[Image.Image] = []
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Address to give to the reader."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, picture = self.server, picture_of(body)
        is_row = picture is not None and picture.size != (128, 128)
        with server.lock:
            server.keys.add(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            if is_row:
                server.rows.append(picture)
                server.bodies.append(body)
        try:
            answer = server.respond(picture, body) if is_row else check_answer(picture)
        finally:
            with server.lock:
                server.busy -= 1
        status, answer = answer if isinstance(answer, tuple) else (200, answer)
        if isinstance(answer, str):
            answer = completion(answer)
        self.send(status, answer)

    def send(self, status: int, answer: dict | bytes) -> None:
        headers = answer.pop("headers", {}) if isinstance(answer, dict) else {}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the reader no longer waits
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def picture_of(body: dict) -> Image.Image | None:
    """The first picture of a request, or None."""
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                return Image.open(io.BytesIO(base64.b64decode(data)))
    return None


def completion(text: str, finish_reason: str = "stop", logprob: float | None = -0.1) -> dict:
    """A chat completion with usage and, if `logprob` is given, log-probabilities."""
    tokens = [{"token": c, "logprob": logprob, "bytes": None, "top_logprobs": []} for c in text]
    return {
        "id": "1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": finish_reason,
                "logprobs": None if logprob is None else {"content": tokens},
            }
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": len(text), "total_tokens": 0},
    }


def check_answer(picture: Image.Image | None) -> dict:
    """Answer to a question of the reader's check: a picture takes tokens."""
    answer = completion("")
    answer["usage"]["prompt_tokens"] = 5 if picture is None else 20
    return answer


def refusal(status: int, message: str, **headers: str) -> tuple[int, dict]:
    """An error in OpenAI's form."""
    return status, {"error": {"message": message, "type": "x", "code": None}, "headers": headers}


@contextmanager
def serving(respond: Callable[[Image.Image, dict], Any], port: int = 0) -> Generator[ChatServer]:
    """Run a server in a thread as long as the context lasts."""
    server = ChatServer(respond, port)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
