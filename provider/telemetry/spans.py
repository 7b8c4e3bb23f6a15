"""One span a request and one for each of its stages, by OpenTelemetry: https://opentelemetry.io/docs/specs/semconv."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Self

from attrs import define
from litestar.enums import HttpMethod
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context

from provider.cores import ONLY_WORKER, Worker
from provider.engine.hooks import Event, RequestAnswered
from provider.telemetry.request import QUIET, RequestRecord, current_record

_METHODS = {method.value for method in HttpMethod}
_BAD = 500
_STAGES = ["tokenise", "queue", "forward"]
# The end of the process does not wait for a collector for longer.
_FLUSH_SECONDS = 2.0


@define
class _TracedRequest:
    """A request under way; `offset` turns `time.monotonic` into nanoseconds of the clock."""

    tracer: Tracer
    span: Span
    offset: int
    received: bool = False
    answering_since: float | None = None

    @classmethod
    def begin(cls, tracer: Tracer, record: RequestRecord, scope: Scope, started: float) -> Self:
        wanted = propagate.get_global_textmap().fields
        headers = {name: value.decode("latin-1") for key, value in scope["headers"] if (name := key.decode()) in wanted}
        offset = time.time_ns() - int(time.monotonic() * 1e9)
        method = record.method if record.method in _METHODS else "_OTHER"
        span = tracer.start_span(
            method,
            propagate.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": method},
            start_time=offset + int(started * 1e9),
        )
        return cls(tracer, span, offset)

    def add_stage(self, name: str, began: float, ended: float) -> None:
        """A stage that is over, by `time.monotonic`."""
        context = set_span_in_context(self.span)
        stage = self.tracer.start_span(name, context, start_time=self.offset + int(began * 1e9))
        stage.end(self.offset + int(ended * 1e9))

    def end(self, record: RequestRecord, scope: Scope, started: float) -> None:
        ended = time.monotonic()
        if not self.received and self.answering_since is None:
            self.add_stage("receive", started, ended)
        if self.answering_since is not None:
            self.add_stage("write", self.answering_since, ended)
        if (route := scope.get("path_template")) is not None:
            self.span.set_attribute("http.route", route)
            self.span.update_name(f"{record.method} {route}")
        self.span.set_attributes(
            {"http.response.status_code": record.status, "emb_provider.request_id": record.request_id}
        )
        if record.status >= _BAD or not record.status:
            self.span.set_attribute("error.type", str(record.status))
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end(self.offset + int(ended * 1e9))


_current: ContextVar[_TracedRequest | None] = ContextVar("traced_request", default=None)


class Tracing:
    """Traces requests: `wrap` goes around the application, `on_event` is a hook."""

    def __init__(self, provider: TracerProvider) -> None:
        """Spans go to `provider`, which `close` shuts down."""
        self._provider = provider
        self._tracer = provider.get_tracer("emb-provider")

    @classmethod
    def to_otlp(cls, worker: Worker = ONLY_WORKER) -> Self:
        """Spans go by OTLP over HTTP, in batches and by a thread, to where OpenTelemetry's variables say."""
        resource = Resource.create({} if worker.is_alone else {"emb_provider.worker": worker.number})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "emb-provider"}))
        # Not at the exit of the process: a collector that does not answer would hold it up for half a minute.
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """`app`, each request of which makes a span; not those for health and metrics."""

        async def traced_app(scope: Scope, receive: Receive, send: Send) -> None:
            record = current_record()
            if record is None or record.path.startswith(QUIET):
                await app(scope, receive, send)
                return
            started = time.monotonic()
            with self._traced(record, scope, started) as request:

                async def receive_traced() -> Any:  # noqa: ANN401 - ASGI's
                    message = await receive()
                    if not request.received and not message.get("more_body"):
                        request.received = True
                        request.add_stage("receive", started, time.monotonic())
                    return message

                async def send_traced(message: Message) -> None:
                    if request.answering_since is None:
                        request.answering_since = time.monotonic()
                    await send(message)

                await app(scope, receive_traced, send_traced)

        return traced_app

    @contextmanager
    def _traced(self, record: RequestRecord, scope: Scope, started: float) -> Iterator[_TracedRequest]:
        request = _TracedRequest.begin(self._tracer, record, scope, started)
        record.trace_id = format_trace_id(request.span.get_span_context().trace_id)
        token = _current.set(request)
        try:
            yield request
        finally:
            _current.reset(token)
            request.end(record, scope, started)

    def on_event(self, event: Event) -> None:
        """A hook: the stages between a request's body and its answer."""
        request = _current.get()
        if request is None or not isinstance(event, RequestAnswered):
            return
        request.span.set_attributes(
            {
                "gen_ai.request.model": event.model,
                "gen_ai.usage.input_tokens": event.usage.tokens,
                "emb_provider.inputs": event.usage.inputs,
                "emb_provider.cache_hits": event.usage.cache_hits,
                "emb_provider.store_hits": event.usage.store_hits,
                "emb_provider.truncated": event.truncated,
            }
        )
        instants = event.timings.instants
        stages = ["tokenise", "store", "queue", "forward"] if event.timings.store_seconds else _STAGES
        for name, (began, ended) in zip(stages, pairwise(instants), strict=False):
            request.add_stage(name, began, ended)

    async def close(self) -> None:
        """Send what is left, for two seconds at most."""
        # A daemon: a collector that does not answer must not keep the process from ending.
        flushing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH_SECONDS)
