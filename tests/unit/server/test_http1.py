"""What arrives on a connection, cut in every place, is the requests that it holds: none lost, none invented."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import httptools
import pytest
import structlog
from uvicorn import Config
from uvicorn.server import ServerState
from waiting import PATIENCE_SECONDS

from provider.server.connections import Connections
from provider.server.http1 import Http1Protocol
from provider.settings import ServerSettings

OFFERS = {
    "jdk": b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n",
    "websocket": b"upgrade: websocket\r\nsec-websocket-key: a\r\nconnection: keep-alive, Upgrade\r\n",
    "several": b"UPGRADE: h2c , foo/2\r\nConnection:  upgrade \r\nUpgrade: TLS/1.0\r\nX-Empty:\r\n",
}
INNER = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
BODIES = {
    "none": (b"", b"", b""),
    "length": (b"Content-Length: %d\r\n" % len(INNER), INNER, INNER),
    "chunked": (
        b"Transfer-Encoding: chunked\r\n",
        b"4\r\nGET \r\n%x;a=b\r\n%b\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(INNER) - 4, INNER[4:]),
        INNER,
    ),
}
PLAIN = b"POST /last HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nend"
Asked = list[tuple[str, str, bytes]]


class Wire(asyncio.Transport):
    """The client's side of a connection, in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.writes = b"", 0
        self.is_closed = self.is_paused = self.is_ended = False
        self.unread = 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.writes += 1

    def close(self) -> None:
        self.is_closed = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.is_ended = True

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True

    def get_write_buffer_size(self) -> int:
        return self.unread

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    @property
    def statuses(self) -> list[int]:
        statuses: list[int] = []

        class Responses:
            def on_message_complete(self) -> None:
                if parser.get_status_code() != 100:
                    statuses.append(parser.get_status_code())

        parser = httptools.HttpResponseParser(Responses())
        parser.feed_data(self.written)
        return statuses


class Connection:
    """A connection to an application that remembers what it was asked."""

    def __init__(self, before: Callable[[], Awaitable[object]] | None = None, **limits: Any) -> None:
        self.asked: Asked = []
        self.fields: list[dict[bytes, bytes]] = []
        self.wire = Wire()
        self._before = before
        config = Config(self._answer, interface="asgi3", ws="none", log_config=None, lifespan="off")
        self.events: list[Any] = []
        self.limits = Connections(ServerSettings(**limits), self.events.append)
        self.state = ServerState()
        self.protocol = Http1Protocol(config, self.state, {}, asyncio.get_running_loop(), limits=self.limits)
        self.protocol.connection_made(self.wire)

    @property
    def dropped(self) -> list[str]:
        return [event.reason for event in self.events]

    @property
    def error(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.wire.written.rpartition(b"\r\n\r\n")[2])
        error: dict[str, Any] = body["error"]
        return error

    def look(self, seconds: float) -> None:
        """Look at the connection as if it were so many seconds later."""
        self.protocol.end_if_late(asyncio.get_running_loop().time() + seconds)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        if self._before is not None:
            await self._before()
        self.asked.append((scope["method"], scope["path"], body))
        self.fields.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def say(self, *parts: bytes) -> "Connection":
        """Send `parts` as packets of their own, and let the application do what it can."""
        for part in parts:
            self.protocol.data_received(part)
            for _ in range(12):
                await asyncio.sleep(0)
        return self

    def end(self) -> None:
        self.protocol.connection_lost(None)


def request(offer: str, body: str, method: bytes = b"POST", more: bytes = b"") -> bytes:
    head, sent, _ = BODIES[body]
    return method + b" /first?a=1 HTTP/1.1\r\nHost: x\r\n" + OFFERS[offer] + more + head + b"\r\n" + sent


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
async def test_a_request_that_offers_an_upgrade_is_served_once_wherever_it_is_cut(offer: str, body: str) -> None:
    stream = request(offer, body) + request(offer, body, b"GET") + PLAIN
    right = [("POST", "/first", BODIES[body][2]), ("GET", "/first", BODIES[body][2]), ("POST", "/last", b"end")]
    for cut in range(1, len(stream)):
        connection = await Connection().say(stream[:cut], stream[cut:])
        assert (connection.asked, connection.wire.statuses) == (right, [200] * 3), cut
        assert not connection.wire.is_closed
        connection.end()
    connection = await Connection().say(*(stream[i : i + 1] for i in range(len(stream))))
    assert (connection.asked, connection.wire.statuses) == (right, [200] * 3)
    connection.end()


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_an_answer_is_one_write(method: bytes) -> None:
    connection = await Connection().say(b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method)
    assert connection.wire.statuses == [200]
    assert connection.wire.writes == 1
    connection.end()


async def test_the_application_sees_every_field_but_the_offer() -> None:
    connection = await Connection().say(request("jdk", "chunked", more=b'Accept:  a/b\r\nX-Text: \xc3\xb6 , "q"\r\n'))
    (fields,) = connection.fields
    assert fields[b"accept"] == b"a/b"
    assert fields[b"x-text"] == b'\xc3\xb6 , "q"'
    assert fields[b"transfer-encoding"] == b"chunked"
    assert not {b"upgrade", b"x-trailer"} & fields.keys()
    connection.end()


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    stream = request("jdk", "length", more=b"Expect: 100-continue\r\n")
    head = stream[: -len(INNER)]
    connection = await Connection().say(head)
    assert connection.wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.say(INNER)
    assert (connection.asked, connection.wire.statuses) == ([("POST", "/first", INNER)], [200])
    connection.end()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_the_connection_ends_after_the_answer_where_the_client_wants_it(version: bytes) -> None:
    stream = b"POST / HTTP/%b\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab" % version
    connection = await Connection().say(stream + INNER)
    assert connection.asked == [("POST", "/", b"ab")]
    assert connection.wire.is_closed
    connection.end()


async def test_a_thousand_offers_in_one_packet_are_a_thousand_requests() -> None:
    connection = await Connection().say(request("jdk", "none") * 1000)
    while len(connection.asked) < 1000:
        before = len(connection.asked)
        await connection.say(b"")
        assert len(connection.asked) > before
    assert connection.wire.statuses == [200] * 1000
    connection.end()


MALFORMED = {
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabc",
    "the same length twice": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\nabc",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "chunked, but not last": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "an unknown encoding": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "an unknown encoding of a GET": b"GET / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "a blank before the colon": b"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded field": b"POST / HTTP/1.1\r\nX: a\r\n Content-Length: 3\r\n\r\nabc",
    "bare line feeds": b"POST / HTTP/1.1\nHost: x\n\n",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -3\r\n\r\nabc",
    "a chunk that is not as long as it says": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
    "a tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a URL that is none": b"GET x HTTP/1.1\r\n\r\n",
    "a URL without a path": b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n",
    "another protocol": b"OPTIONS rtsp://x RTSP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("offer", ["", "jdk"])
@pytest.mark.parametrize("what", MALFORMED)
async def test_what_is_no_request_gets_one_error_and_the_end_of_the_connection(what: str, offer: str) -> None:
    line, end, rest = MALFORMED[what].partition(b"\n")
    stream = line + end + OFFERS.get(offer, b"") + rest + INNER
    for cut in range(1, len(stream) - len(INNER)):
        connection = Connection()
        connection.protocol.data_received(stream[:cut])
        if not connection.wire.is_closed:
            connection.protocol.data_received(stream[cut:])
        await connection.say()
        head, _, body = connection.wire.written.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 "), cut
        error = json.loads(body)["error"]
        assert error["type"] == "invalid_request_error"
        assert re.fullmatch(r"This is no valid HTTP/1\.1 request: [^\d].{9,}\.", error["message"])
        assert "object" not in error["message"]
        assert connection.wire.is_closed
        assert connection.asked == []
        connection.end()


@pytest.mark.parametrize(
    ("what", "said"),
    [("TLS", "use http://"), ("HTTP/2", "speak HTTP/1.1"), ("a URL without a path", "its URL has no path")],
)
async def test_another_protocol_is_told_by_its_name(what: str, said: str) -> None:
    connection = await Connection().say(MALFORMED[what])
    assert said in connection.error["message"]
    connection.end()


async def test_an_accepted_request_gets_its_own_answer_though_nonsense_follows_it() -> None:
    go = asyncio.Event()
    connection = await Connection(before=go.wait).say(PLAIN + b"nonsense\r\n\r\n")
    assert connection.wire.written == b""
    go.set()
    await connection.say()
    for _ in range(12):
        await asyncio.sleep(0)
    assert (connection.asked, connection.wire.statuses) == ([("POST", "/last", b"end")], [200])
    assert connection.wire.is_closed
    connection.end()


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\n"
TOO_LARGE = {
    "one field": [HEAD + b"x: ", *[b"a" * 1000] * 80],
    "one field in one packet": [HEAD + b"x: " + b"a" * 80_000 + b"\r\n\r\n"],
    "a URL": [b"GET /", *[b"a" * 1000] * 80],
    "a URL in one packet": [b"GET /" + b"a" * 80_000 + b" HTTP/1.1\r\n\r\n"],
    "a name": [HEAD, *[b"a" * 1000] * 80],
    "many fields": [HEAD, *[b"x: a\r\n"] * 101],
    "many fields in one packet": [HEAD + b"x: a\r\n" * 101 + b"\r\n"],
    "a trailer": [HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\nx: ", *[b"a" * 1000] * 80],
    "many trailers": [HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n", *[b"x: a\r\n"] * 102],
    "a chunk's extension": [HEAD + b"transfer-encoding: chunked\r\n\r\n1;", *[b"a" * 1000] * 80],
    "line breaks": [b"\r\n" * 500] * 80,
    "the second head": [PLAIN, b"GET / HTTP/1.1\r\nx: ", *[b"a" * 1000] * 80],
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_a_head_has_a_size(what: str) -> None:
    connection = Connection()
    for part in TOO_LARGE[what]:
        if not connection.wire.is_closed:
            await connection.say(part)
    assert connection.wire.statuses[-1] == 431
    assert (connection.error["code"], connection.dropped) == ("header_too_large", ["head_too_large"])
    assert b"x-request-id: req_" in connection.wire.written
    connection.end()


async def test_a_large_body_in_small_pieces_has_no_large_head() -> None:
    chunk = b"1\r\na\r\n"
    connection = await Connection().say(HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk * 1000] * 40)
    await connection.say(b"0\r\n\r\n")
    assert connection.wire.statuses == [200]
    connection = await Connection().say(HEAD + b"content-length: 400000\r\n\r\n", *[b"a" * 200_000] * 2)
    assert connection.wire.statuses == [200]
    connection.end()


@pytest.mark.parametrize(
    ("said", "statuses"),
    [([], []), ([b"\r\n"], []), ([HEAD], [408]), ([PLAIN, b"GET"], [200, 408]), ([PLAIN, b"\r\n"], [200])],
)
async def test_a_head_has_a_deadline(said: list[bytes], statuses: list[int]) -> None:
    connection = await Connection(head_seconds=10).say(*said)
    connection.look(9)
    assert not connection.wire.is_closed
    connection.look(11)
    assert (connection.wire.statuses, connection.dropped) == (statuses, ["head_too_slow"])
    assert connection.wire.is_closed
    connection.end()


async def test_who_is_idle_or_waits_for_us_breaks_no_deadline() -> None:
    idle = await Connection().say(PLAIN)
    go = asyncio.Event()
    waiting = await Connection(before=go.wait).say(PLAIN + PLAIN + PLAIN[:20])
    waiting.protocol.flow.pause_reading()
    for connection in (idle, waiting):
        connection.look(1000)
        assert (connection.dropped, connection.wire.is_closed) == ([], False)
    go.set()
    await waiting.say()
    idle.end()
    waiting.end()


async def test_the_rest_of_a_body_that_is_answered_has_a_deadline() -> None:
    connection = Connection(body_seconds=60)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    connection.protocol.app = refuse
    await connection.say(HEAD + b"content-length: 1000\r\n\r\n", b"a", b"a")
    connection.look(59)
    assert not connection.wire.is_closed
    connection.look(61)
    assert (connection.dropped, connection.wire.is_closed) == (["body_too_slow"], True)
    connection.end()


async def test_an_answer_has_a_deadline_by_its_size() -> None:
    connection = await Connection(write_seconds=30).say(PLAIN)
    connection.wire.unread = 10 * 131_072
    assert connection.protocol.unwritten_bytes == 0
    connection.protocol.pause_writing()
    assert connection.protocol.unwritten_bytes == 10 * 131_072
    written = asyncio.ensure_future(connection.protocol.written())
    connection.look(39)
    assert (connection.dropped, written.done()) == ([], False)
    connection.look(41)
    assert (connection.dropped, connection.wire.is_closed) == (["answer_unread"], True)
    connection.end()
    await asyncio.wait_for(written, PATIENCE_SECONDS)


async def test_connections_have_a_number() -> None:
    connection = Connection(max_connections=1)
    wire = Wire()
    second = Http1Protocol(
        connection.protocol.config, connection.state, {}, asyncio.get_running_loop(), limits=connection.limits
    )
    second.connection_made(wire)
    assert (wire.statuses, wire.is_ended, wire.is_closed, connection.dropped) == ([503], True, False, ["too_many"])
    # What still comes is no request, and a client that goes on sending is not waited for.
    second.data_received(PLAIN)
    assert (wire.statuses, connection.asked) == ([503], [])
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not wire.is_closed:  # noqa: ASYNC110 - a timer of the loop's own
            await asyncio.sleep(0.05)
    assert b"retry-after: 5" in wire.written
    # Whichever client it is finds the reason.
    body = json.loads(wire.written.partition(b"\r\n\r\n")[2])
    assert body["error"]["message"] == body["detail"] == body["message"]
    second.connection_lost(None)
    connection.end()


async def test_connections_that_are_refused_take_no_place() -> None:
    connection = Connection(max_connections=1)

    def another() -> tuple[Http1Protocol, Wire]:
        made = Http1Protocol(
            connection.protocol.config, connection.state, {}, asyncio.get_running_loop(), limits=connection.limits
        )
        made.connection_made(wire := Wire())
        return made, wire

    refused, _ = another()
    # As many as may be connected are given time to read it, and further ones none.
    beyond, wire = another()
    assert (wire.statuses, wire.is_closed) == ([503], True)
    beyond.connection_lost(None)
    connection.end()
    served, wire = another()
    assert (wire.statuses, connection.dropped) == ([], ["too_many", "too_many"])
    for each in (refused, served):
        each.connection_lost(None)
    assert not connection.state.connections


@pytest.mark.parametrize("method", [b"EMBED", b"get", b"X-Y"])
async def test_a_method_that_there_is_not_is_not_allowed(method: bytes) -> None:
    connection = await Connection().say(method + b" /v1/embeddings HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (connection.wire.statuses, connection.error["code"]) == ([405], "method_not_supported")
    assert b"\r\nallow: GET, HEAD, POST, OPTIONS\r\n" in connection.wire.written
    connection.end()


def test_an_attack_makes_few_lines() -> None:
    limits = Connections(ServerSettings())
    with structlog.testing.capture_logs() as lines:
        for second in range(20):
            for _ in range(100):
                limits.dropped("head_too_slow", second)
            limits.look([], second)
        limits.look([], 30)
    assert [line["connections"] for line in lines] == [1, 1000, 999]
