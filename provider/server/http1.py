"""HTTP/1.1 over one connection: uvicorn's, with limits, our error envelope, and offers to upgrade ignored."""

import asyncio
import re
from typing import Any

import httptools
import orjson
import structlog
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from provider.dialects.dialect import Failure
from provider.dialects.errors import INVALID, UNAVAILABLE
from provider.dialects.openai.api import envelope
from provider.engine.hooks import DropReason
from provider.server.answers import AnswerWriter
from provider.server.connections import Connections
from provider.settings import ServerSettings
from provider.telemetry.request import request_id

_log = structlog.get_logger("provider.server")

MOST_HEAD_BYTES = 65_536
"""Of a request's line and fields together; of a chunk's extensions, too."""
MOST_FIELDS = 100
# What a slow client is granted beyond `server.write_seconds`.
_SLOWEST_BYTES_PER_SECOND = 131_072
# In which a client that is refused may send what it wanted to, and read why.
_REFUSED_SECONDS = 1.0
_REQUEST_LINE = re.compile(rb"\s*([!#$%&'*+.^_`|~\w-]{1,40}) \S+ HTTP/1\.[01]\r?$", re.MULTILINE)
_FOREIGN = {
    b"\x16\x03": "it is TLS, and this port speaks HTTP without it: use http://",
    b"PRI * HTTP/2": "it is HTTP/2; let the client, or a proxy, speak HTTP/1.1",
}


class _Refused(Exception):
    """A request that is answered here and not by the application."""

    def __init__(self, status: int, message: str, *, reason: DropReason, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.reason, self.code = status, message, reason, code


class Http1Protocol(HttpToolsProtocol):
    """A connection whose client may neither send nor leave unread what it likes for as long as it likes.

    Requests may offer an upgrade (`Connection: Upgrade`), as every JDK client's do. A server may ignore such an offer
    (RFC 9110, section 7.8). httptools cannot: it takes what follows the head for the other protocol, and would read a
    body as the next request. So the head is read again without its `Upgrade` fields, by a new parser, which then reads
    the rest. Requests without an offer take uvicorn's own way.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Connections | None = None,
    ) -> None:
        """Called for each connection; `limits` are those of all of them together."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits or Connections(ServerSettings())
        # Since when the client owes us something: a head, or the rest of a body whose request is answered already.
        self._owes_since: float | None = None
        self._has_begun = self._is_in_head = self._is_refused = False
        # Since the last part of a request that was complete in itself.
        self._unparsed_bytes = 0
        self._must_read_by: float | None = None

    @property
    def unwritten_bytes(self) -> int:
        """Of answers that the client has yet to read; 0 where they are few."""
        return self.transport.get_write_buffer_size() if self._must_read_by is not None else 0

    async def written(self) -> None:
        """Return when the client has read most of its answers, or is gone."""
        await self.flow.drain()

    def drop_unread(self) -> None:
        """End the connection of a client that does not read its answers in time, and forget them."""
        self._drop("answer_unread")
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Called by the event loop."""
        super().connection_made(transport)
        self._owes_since = self.loop.time()
        most = self._limits.settings.max_connections
        if len(self.connections) - self._limits.refused > most:
            self._drop("too_many")
            self._write_error(503, "The service has too many connections. Please try again in 5s.", UNAVAILABLE)
            if self._limits.refused >= most:
                self.transport.close()
                return
            # To close while a request arrives would reset the connection, and its client might not read the answer.
            self._is_refused = True
            self._limits.refused += 1
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(_REFUSED_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        if self._is_refused:
            self._limits.refused -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with bytes as they came."""
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        end = None
        try:
            self.parser.feed_data(data)
            self._check_size()
        except httptools.HttpParserUpgrade as offer:
            (end,) = offer.args
        except (httptools.HttpParserError, _Refused) as exc:
            self._refuse(exc, data)
        if end is not None:
            self._go_on(memoryview(data)[end:])
        if not self._has_begun and self._owes_since is None and (self.cycle is None or self.cycle.response_complete):
            self._owes_since = self.loop.time()  # line breaks only

    def on_message_begin(self) -> None:
        """Called by the parser."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._has_begun = self._is_in_head = True
        if self._owes_since is None:
            self._owes_since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for trailers too."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        if len(self.headers) >= MOST_FIELDS:
            msg = f"The request has more than {MOST_FIELDS} header fields."
            raise _Refused(431, msg, reason="head_too_large", code="header_too_large")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser. Trailers that follow a body are not among the request's fields."""
        if not self.parser.should_upgrade():
            if self._unparsed_bytes > MOST_HEAD_BYTES:
                self._check_size(len(self.url) + sum(len(name) + len(value) for name, value in self.headers))
            self._owes_since, self._is_in_head, self._unparsed_bytes = None, False, 0
            if not self.url.startswith(b"/") and not httptools.parse_url(self.url).path:
                msg = "its URL has no path"
                raise httptools.HttpParserError(msg)
            super().on_headers_complete()
            self.headers = []
            if self.scope["method"] != "HEAD":
                self.cycle.transport = AnswerWriter(self.transport)  # type: ignore[assignment]
        elif self.parser.get_method() == b"CONNECT":
            msg = "CONNECT is not supported"
            raise httptools.HttpParserError(msg)

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser, for a head with an offer as well: the request is not complete then."""
        if not self.parser.should_upgrade():
            self._has_begun, self._owes_since, self._unparsed_bytes = False, None, 0
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Called when an answer has been handed to the transport."""
        if self._has_begun and not self._is_in_head and self.cycle.response_complete:
            self._owes_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Called by the transport when it holds more than it likes to."""
        size = self.transport.get_write_buffer_size()
        seconds = self._limits.settings.write_seconds + size / _SLOWEST_BYTES_PER_SECOND
        self._must_read_by = self.loop.time() + seconds
        super().pause_writing()

    def resume_writing(self) -> None:
        """Called by the transport when the client has read."""
        self._must_read_by = None
        super().resume_writing()

    def end_if_late(self, now: float) -> None:
        """See `provider.server.connections.Connection`."""
        if self._must_read_by is not None and now > self._must_read_by:
            self.drop_unread()
        elif self.transport.is_closing():
            self._must_read_by = self._must_read_by or now + self._limits.settings.write_seconds
        elif self._owes_since is not None and self.flow.read_paused:
            self._owes_since = now  # it is we who do not read
        elif self._owes_since is not None and self._has_begun and not self._is_in_head:
            if now - self._owes_since > self._limits.settings.body_seconds:
                self._drop("body_too_slow")
                self.transport.close()
        elif self._owes_since is not None and now - self._owes_since > self._limits.settings.head_seconds:
            if self._has_begun:
                msg = f"The head of the request did not arrive within {self._limits.settings.head_seconds} s."
                self._refuse(_Refused(408, msg, reason="head_too_slow", code="request_timeout"))
            else:
                self._drop("head_too_slow")
                self.transport.close()

    def _drop(self, reason: DropReason) -> None:
        self._owes_since = self._must_read_by = None
        self._limits.dropped(reason, self.loop.time())

    def _check_size(self, size: int | None = None) -> None:
        if (self._unparsed_bytes if size is None else size) > MOST_HEAD_BYTES:
            msg = f"The head of the request has more than {MOST_HEAD_BYTES} bytes."
            raise _Refused(431, msg, reason="head_too_large", code="header_too_large")

    def _go_on(self, rest: memoryview) -> None:
        """Serve a request that offers an upgrade; `rest` is what came behind its head, other such requests included."""
        try:
            while True:
                self._read_head_again()
                try:
                    return self.parser.feed_data(rest)
                except httptools.HttpParserUpgrade as offer:
                    rest = rest[offer.args[0] :]
        except httptools.HttpParserError as exc:
            self._refuse(exc)

    def _read_head_again(self) -> None:
        request = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        fields = b"".join(b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.parser.feed_data(request + fields + b"\r\n")

    def _refuse(self, problem: Exception, data: bytes = b"") -> None:
        """Answer what is no request. The connection is of no use any more: where the next one begins is unknown."""
        cause = problem.__context__ or problem
        refused = cause if isinstance(cause, _Refused) else _malformed(cause, data)
        identity = request_id(self.headers or ())
        _log.warning("request_refused", status=refused.status, reason=refused.message, request_id=identity)
        self._drop(refused.reason)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # The request before it is still to be answered, and this answer would be taken for that one's.
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if cycle is not None:
            cycle.disconnected = True  # of a request whose body is no HTTP
        if not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started):
            self._write_error(refused.status, refused.message, INVALID, code=refused.code, identity=identity)
        self.transport.close()

    def _write_error(
        self, status: int, message: str, kind: str, *, code: str | None = None, identity: str | None = None
    ) -> None:
        # Whose client it is, nobody knows yet: `message` is what Cohere's read.
        body = orjson.dumps(envelope(Failure(status, message, kind, code=code)) | {"message": message})
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", (identity or request_id(())).encode()),
        ]
        if status == 503:
            fields.append((b"retry-after", b"5"))
        if status == 405:
            fields.append((b"allow", b"GET, HEAD, POST, OPTIONS"))
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + body)


def _malformed(problem: BaseException, data: bytes) -> _Refused:
    reason = next((text for start, text in _FOREIGN.items() if data.startswith(start)), str(problem))
    if "method" in reason and (line := _REQUEST_LINE.match(data)):
        msg = f"Not allowed to {line[1].decode()}: there is no such method. Allowed: GET, HEAD, POST, OPTIONS."
        return _Refused(405, msg, reason="malformed", code="method_not_supported")
    return _Refused(400, f"This is no valid HTTP/1.1 request: {reason}.", reason="malformed")
