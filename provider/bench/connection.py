"""Connections to a server: HTTP/1.1, kept alive, with requests that are bytes already.

A load generator often shares its cores with the server, and whatever it takes is missing there. General HTTP clients
(httpx, aiohttp) build and parse every message anew and take several times as long for a request as a quick server
does; the rates measured would be theirs. Here a request is one write of bytes made beforehand, and an answer is
read by llhttp (httptools), of which only the status and the tail of the body are looked at.
"""

import asyncio
import re
import ssl
from collections import deque
from collections.abc import Iterator
from typing import cast

import httptools

from provider.bench.load_generator import TIMEOUT, Done
from provider.endpoint import Endpoint, error_message

# More connections than this are not opened, whatever the rate; what is due then waits, and its latency grows.
MOST_CONNECTIONS = 1024

REFUSED, CLOSED, MALFORMED = "no connection", "connection closed", "malformed answer"

# Servers put `usage` last, in so many bytes; a body is not parsed for it.
_TAIL_BYTES = 256
_TOKENS = re.compile(rb'"(?:total|prompt)_tokens"\s*:\s*(\d+)')
# A server that refuses connections must not be asked ten thousand times a second whether it still does.
_PAUSE_SECONDS = 0.05


class Pool:
    """The connections of one slice; a `Target`. Connections are opened ahead, and more as they are needed."""

    def __init__(self, endpoint: Endpoint, requests: Iterator[bytes]) -> None:
        """Nothing is connected until `open`.

        Args:
            endpoint: where to.
            requests: whole requests, head and body, without end.
        """
        self.messages: dict[str, str] = {}
        self._endpoint, self._requests = endpoint, requests
        self._loop = asyncio.get_running_loop()
        self._ssl = ssl.create_default_context() if endpoint.scheme == "https" else None
        self._address = (endpoint.host, endpoint.port)
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._waiting: deque[Done] = deque()
        self._connecting: set[asyncio.Task[None]] = set()

    async def open(self, count: int) -> None:
        """Have `count` connections ready. What cannot be had is tried again when it is needed."""
        for _ in range(min(count, MOST_CONNECTIONS)):
            try:
                self._idle.append(await self._connect())
            except OSError:
                return

    def begin(self, done: Done) -> None:
        """See `Target.begin`."""
        if self._idle:
            self._idle.pop().send(next(self._requests), done)
            return
        self._waiting.append(done)
        self._connect_more()

    def abandon(self) -> None:
        """See `Target.abandon`."""
        waiting, self._waiting = self._waiting, deque()
        for done in waiting:
            done(None, TIMEOUT)
        for connection in tuple(self._all):
            connection.give_up(TIMEOUT, f"no answer within the time allowed (--timeout), from {self._endpoint.url}")

    def close(self) -> None:
        """Close everything."""
        for task in self._connecting:
            task.cancel()
        for connection in tuple(self._all):
            connection.transport.abort()

    def is_free(self, connection: "Connection") -> None:
        """A connection has no request any more: the next one that waits is sent over it."""
        if self._waiting:
            connection.send(next(self._requests), self._waiting.popleft())
        else:
            self._idle.append(connection)

    def is_lost(self, connection: "Connection") -> None:
        """A connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._connect_more()

    def failed(self, done: Done, kind: str, message: str) -> None:
        """A request failed; its caller learns it from the event loop."""
        self.messages.setdefault(kind, message)
        self._loop.call_soon(done, None, kind)

    def _connect_more(self) -> None:
        """One connection is on its way for every request that waits for one."""
        while len(self._connecting) < len(self._waiting) and len(self._all) + len(self._connecting) < MOST_CONNECTIONS:
            task = self._loop.create_task(self._connect_for_one())
            self._connecting.add(task)
            task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[None]") -> None:
        self._connecting.discard(task)
        if not task.cancelled():
            self._connect_more()

    async def _connect(self) -> "Connection":
        name = self._endpoint.host if self._ssl else None
        _, connection = await self._loop.create_connection(
            lambda: Connection(self), *self._address, ssl=self._ssl, server_hostname=name
        )
        # The name is looked up once.
        self._address = connection.transport.get_extra_info("peername")[:2]
        self._all.add(connection)
        return connection

    async def _connect_for_one(self) -> None:
        try:
            connection = await self._connect()
        except OSError as exc:
            await asyncio.sleep(_PAUSE_SECONDS)
            if self._waiting:
                self.failed(self._waiting.popleft(), REFUSED, f"{self._endpoint.url}: {exc.strerror or exc}")
            return
        self.is_free(connection)


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._done: Done | None = None
        # It looks for the callbacks that this object has, and pays for no others.
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, done: Done) -> None:
        """Send `request`; `done` is called when it is answered, or cannot be any more."""
        self._done = done
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self.give_up(MALFORMED, f"the answer is no HTTP/1.1: {exc}")

    def on_body(self, body: bytes) -> None:
        """Called by the parser with a part of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        done, self._done = self._done, None
        body, self._body = self._body, []
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.transport.close()
        else:
            self._pool.is_free(self)
        if done is None:
            return
        if status == 200:
            done(_tokens(body), None)
        else:
            self._pool.failed(done, str(status), error_message(b"".join(body)))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.give_up(CLOSED, f"the connection was closed before the answer{f': {exc}' if exc else ''}")
        self._pool.is_lost(self)

    def give_up(self, kind: str, message: str) -> None:
        """Fail the request under way, if there is one, and close."""
        done, self._done = self._done, None
        if done is not None:
            self._pool.failed(done, kind, message)
        if not self.transport.is_closing():
            self.transport.abort()


def _tokens(body: list[bytes]) -> int | None:
    tail = body[-1] if body else b""
    for part in body[-2::-1]:
        if len(tail) >= _TAIL_BYTES:
            break
        tail = part + tail
    found = _TOKENS.findall(tail, max(0, len(tail) - _TAIL_BYTES))
    return int(found[-1]) if found else None
