"""A server of OpenAI's embeddings API that answers what a test says: busy, lost or wrong."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from waiting import PATIENCE_SECONDS

Answer = tuple[int, dict[str, str], Any]
"""Status, headers, JSON body; a body of None closes the connection instead."""


class Stub:
    """A server that gives the answers in `script` first, and then right ones."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.fingerprint = "f"
        self.encode: Callable[[list[float]], Any] = lambda vector: vector
        self.respond: Callable[[dict[str, Any]], Answer] = self.right
        self.models: Any = {"data": [{"id": "first"}, {"id": "second"}]}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, {}, outer.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append(body)
                outer.times.append(time.monotonic())
                outer.keys.append(self.headers["authorization"])
                self.answer(*(outer.script.pop(0) if outer.script else outer.respond(body)))

            def answer(self, status: int, headers: dict[str, str], body: Any) -> None:
                if body is None:
                    self.close_connection = True
                    return
                content = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def right(self, body: dict[str, Any]) -> Answer:
        width = body.get("dimensions", 2)
        data = [
            {"index": i, "embedding": self.encode([len(text), i, *[0.0] * width][:width])}
            for i, text in enumerate(body["input"])
        ]
        return 200, self.headers(), {"data": data[::-1], "usage": {"total_tokens": 7}}

    def headers(self) -> dict[str, str]:
        return {"x-model-fingerprint": self.fingerprint} if self.fingerprint else {}


@contextmanager
def running_stub() -> Iterator[Stub]:
    """One that listens on a port of its own."""
    stub = Stub()
    thread = threading.Thread(target=stub.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stub
    finally:
        stub.server.shutdown()
        stub.server.server_close()
        thread.join(PATIENCE_SECONDS)


def error(status: int, message: str, *, headers: dict[str, str] | None = None, **fields: Any) -> Answer:
    return status, headers or {}, {"error": {"message": message, **fields}}
