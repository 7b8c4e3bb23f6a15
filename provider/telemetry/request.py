"""Every request's id, duration, canonical log line and metrics: an ASGI wrapper around the whole application."""

import logging
import os
import re
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog
from attrs import define
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from provider.engine.hooks import Event, RequestEmbedded

_LOGGER = "provider.request"
_log = structlog.get_logger(_LOGGER)
_levels = logging.getLogger(_LOGGER)
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_ID_HEADERS = (b"x-request-id", b"x-client-request-id")
# Probes and scrapes come every few seconds and say nothing.
_QUIET = ("/health", "/livez", "/readyz", "/ping", "/metrics")
_BAD = 500


@define
class RequestRecord:
    """What becomes known of a request while it is answered.

    Attributes:
        route: the route's template, never the raw path: its values are few.
        model: the model's configured name once the engine has answered, else what the client asked for.
        seconds: from the first byte of the request to the last of the answer.
    """

    request_id: str
    method: str
    path: str
    route: str = "unmatched"
    status: int = 0
    seconds: float = 0.0
    model: str | None = None
    embedded: RequestEmbedded | None = None


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def add_request_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: lines that belong to a request say to which."""
    record = _current.get()
    if record is not None:
        event["request_id"] = record.request_id
    return event


def remember_embedded(event: Event) -> None:
    """A hook: keep what the engine says for the line of the request in whose context it says it."""
    record = _current.get()
    if record is not None and isinstance(event, RequestEmbedded):
        record.embedded, record.model = event, event.model


class RequestTelemetry:
    """Gives each request an id, times it, and reports it when it is over."""

    def __init__(
        self, app: ASGIApp, *, on_request: Callable[[RequestRecord], None], is_draining: Callable[[], bool]
    ) -> None:
        """Wrap `app`.

        Args:
            app: what answers.
            on_request: hears of every finished request (the metrics).
            is_draining: whether connections are to be closed after the answer.
        """
        self._app, self._on_request, self._is_draining = app, on_request, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(scope), scope["method"], scope["path"])
        started = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = record.request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                spent_ms = round((time.perf_counter() - started) * 1000)
                added = [
                    (b"x-request-id", record.request_id.encode()),
                    (b"openai-processing-ms", str(spent_ms).encode()),
                ]
                if self._is_draining():
                    # The client's next request must find another server.
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        token = _current.set(record)
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            record.seconds = time.perf_counter() - started
            record.route = scope.get("path_template") or "unmatched"
            record.model = record.model or state.get("model")
            self._report(record)
            _current.reset(token)

    def _report(self, record: RequestRecord) -> None:
        self._on_request(record)
        is_quiet = record.path.startswith(_QUIET)
        level = logging.DEBUG if is_quiet else logging.ERROR if record.status >= _BAD else logging.INFO
        if not _levels.isEnabledFor(level):
            return
        facts: dict[str, Any] = {
            "method": record.method,
            "route": record.route,
            "path": record.path,
            "status": record.status,
            "total_seconds": round(record.seconds, 6),
        }
        if record.model is not None:
            facts["model"] = record.model
        if (done := record.embedded) is not None:
            facts |= {
                "inputs": done.usage.inputs,
                "tokens": done.usage.tokens,
                "cache_hits": done.usage.cache_hits,
                "truncated": done.truncated,
                "queue_seconds": round(done.timings.queue_seconds, 6),
                "tokenise_seconds": round(done.timings.tokenise_seconds, 6),
                "forward_seconds": round(done.timings.forward_seconds, 6),
            }
        _log.log(level, "request", **facts)


def _request_id(scope: HTTPScope) -> str:
    """The client's own id if it is short and printable (it ends up in logs and headers), else a new one."""
    given = {name: value for name, value in scope["headers"] if name in _ID_HEADERS}
    for name in _ID_HEADERS if given else ():
        if _SANE_ID.fullmatch(text := given.get(name, b"").decode("latin-1")):
            return text
    return f"req_{os.urandom(16).hex()}"
