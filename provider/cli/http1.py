"""HTTP/1.1 over one connection: uvicorn's, but an offer to upgrade is ignored, and nothing is parsed twice."""

import httptools
import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from provider.api.errors import INVALID, envelope

_log = structlog.get_logger("provider.server")


class Http1Protocol(HttpToolsProtocol):
    """A connection whose requests may offer an upgrade (`Connection: Upgrade`), as every JDK client's do.

    A server may ignore such an offer (RFC 9110, section 7.8). httptools cannot: it takes what follows the head for the
    other protocol, and would read a body as the next request. So the head is read again without its `Upgrade` fields,
    by a new parser, which then reads the rest. Requests without an offer take uvicorn's own way.
    """

    def data_received(self, data: bytes) -> None:
        """Called by the event loop with bytes as they came."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            (end,) = offer.args
        except httptools.HttpParserError as exc:
            return self._refuse(exc)
        else:
            return None
        return self._go_on(memoryview(data)[end:])

    def on_headers_complete(self) -> None:
        """Called by the parser. Trailers that follow a body are not among the request's fields."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = []
        elif self.parser.get_method() == b"CONNECT":
            msg = "CONNECT is not supported"
            raise httptools.HttpParserError(msg)

    def on_message_complete(self) -> None:
        """Called by the parser, for a head with an offer as well: the request is not complete then."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

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

    def _refuse(self, problem: httptools.HttpParserError) -> None:
        """Answer what is no request. The connection is of no use any more: where the next one begins is unknown."""
        reason = str(problem.__context__ or problem)
        _log.warning("request_malformed", reason=reason)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # The request before it is still to be answered, and this answer would be taken for that one's.
            cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if cycle is not None:
            cycle.disconnected = True  # of a request whose body is no HTTP
        if not self.pipeline and (cycle is None or cycle.response_complete or not cycle.response_started):
            body = orjson.dumps(envelope(400, f"This is no valid HTTP/1.1 request: {reason}.", INVALID).content)
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n%b" % (len(body), body)
            )
        self.transport.close()
