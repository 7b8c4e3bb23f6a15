"""Every request's id, duration, canonical log line and metrics: an ASGI wrapper around the whole application."""

import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from attrs import define
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from provider.domain import ANONYMOUS, SCORES, Caller
from provider.engine.hooks import Event, RequestAnswered
from provider.errors import ProviderError
from provider.usage.database import Counts

_LOGGER = "provider.request"
_log = structlog.get_logger(_LOGGER)
_levels = logging.getLogger(_LOGGER)
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_ID_HEADERS = (b"x-request-id", b"x-client-request-id")
# Probes and scrapes come every few seconds and say nothing.
QUIET = ("/health", "/livez", "/readyz", "/ping", "/metrics")
_FAILED, _BAD = 400, 500


@define
class RequestRecord:
    """What becomes known of a request while it is answered.

    Attributes:
        route: the route's template, never the raw path: its values are few.
        dialect: name of the API that the request is in; empty where the path is in none.
        task: what the route does with a model: embed, rerank, score or classify; empty where it runs none.
        model: the model's configured name once the engine has answered, else what the client asked for.
        caller: whose key came with it.
        client: address that it came from; empty where there is none.
        seconds: from the first byte of the request to the last of the answer.
        error: class of the error of ours that it was answered with.
        trace_id: of its span, in hexadecimal digits; empty where requests are not traced.
    """

    request_id: str
    method: str
    path: str
    route: str = "unmatched"
    status: int = 0
    seconds: float = 0.0
    dialect: str = ""
    task: str = ""
    model: str | None = None
    caller: Caller = ANONYMOUS
    client: str = ""
    answered: RequestAnswered | None = None
    error: type[ProviderError] | None = None
    trace_id: str = ""

    def counts(self) -> Counts:
        """What it has used, whatever it was answered."""
        errors = int(self.status >= _FAILED or not self.status)
        if (done := self.answered) is None:
            return Counts(1, errors)
        used = done.usage
        inputs, documents = (0, used.inputs) if done.outputs == (SCORES,) else (used.inputs, 0)
        return Counts(1, errors, inputs, documents, used.tokens, used.cache_hits, done.truncated)


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


@contextmanager
def recorded(record: RequestRecord) -> Iterator[None]:
    """What is done inside belongs to the request of `record`, one without a connection."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


def current_record() -> RequestRecord | None:
    """What is known of the request in whose context this is called."""
    return _current.get()


def add_request_id(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor: lines that belong to a request say to which."""
    record = _current.get()
    if record is not None:
        event["request_id"] = record.request_id
        if record.trace_id:
            event["trace_id"] = record.trace_id
    return event


def remember_answered(event: Event) -> None:
    """A hook: keep what the engine says for the line of the request in whose context it says it."""
    record = _current.get()
    if record is not None and isinstance(event, RequestAnswered):
        record.answered, record.model = event, event.model


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
        record = RequestRecord(request_id(scope["headers"]), scope["method"], scope["path"])
        started = time.perf_counter()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = record.request_id

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                spent_ms = round((time.perf_counter() - started) * 1000)
                added = [
                    (b"x-request-id", record.request_id.encode()),
                    (b"openai-processing-ms", str(spent_ms).encode()),
                ]
                if (done := record.answered) is not None and (times := done.timings).instants:
                    # Written here: a function's call takes as long as all of it.
                    text = (
                        f"tokenise;dur={times.tokenise_seconds * 1e3:.3f}, queue;dur={times.queue_seconds * 1e3:.3f}, "
                        f'forward;dur={times.forward_seconds * 1e3:.3f}, cache;desc="{done.usage.cache_hits}"'
                    )
                    if times.store_seconds:
                        text += f";dur={times.store_seconds * 1e3:.3f}"
                    added.append((b"server-timing", text.encode()))
                if (more := state.get("answer_headers")) is not None:
                    added += more()
                if self._is_draining():
                    # The client's next request must find another server.
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", []), *added]
            return send(message)

        token = _current.set(record)
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            record.seconds = time.perf_counter() - started
            record.route = scope.get("path_template") or "unmatched"
            handler = scope.get("route_handler")
            opt = handler.opt if handler is not None else {}
            record.task = state.get("task") or next(iter(opt.get("tasks", ())), "")
            record.dialect = state.get("dialect") or opt.get("dialect", "")
            record.model = record.model or state.get("model")
            record.error = state.get("error")
            record.caller = state.get("caller", ANONYMOUS)
            if (client := scope.get("client")) is not None:
                record.client = client[0]
            self._report(record)
            _current.reset(token)

    def _report(self, record: RequestRecord) -> None:
        self._on_request(record)
        is_quiet = record.path.startswith(QUIET)
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
        if record.dialect:
            facts["dialect"] = record.dialect
        if record.task:
            facts["task"] = record.task
        if record.model is not None:
            facts["model"] = record.model
        if record.caller.name:
            facts["caller"] = record.caller.name
        if record.client:
            facts["client"] = record.client
        if (done := record.answered) is not None:
            facts |= {
                "outputs": list(done.outputs),
                "inputs": done.usage.inputs,
                "tokens": done.usage.tokens,
                "cache_hits": done.usage.cache_hits,
                "truncated": done.truncated,
                "queue_seconds": round(done.timings.queue_seconds, 6),
                "tokenise_seconds": round(done.timings.tokenise_seconds, 6),
                "forward_seconds": round(done.timings.forward_seconds, 6),
            }
            if done.timings.store_seconds:
                facts |= {
                    "store_hits": done.usage.store_hits,
                    "store_seconds": round(done.timings.store_seconds, 6),
                }
        _log.log(level, "request", **facts)


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own id if it is short and printable (it ends up in logs and headers), else a new one."""
    for wanted in _ID_HEADERS:
        for name, value in headers:
            if name == wanted and _SANE_ID.fullmatch(text := value.decode("latin-1")):
                return text
    return f"req_{os.urandom(16).hex()}"
