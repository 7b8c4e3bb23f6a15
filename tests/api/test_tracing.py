"""Spans of requests, by OpenTelemetry's own exporter in memory."""

import asyncio
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from waiting import PATIENCE_SECONDS

from provider import app as composition
from provider.settings import LogSettings
from provider.telemetry.logs import configure_logging
from provider.telemetry.request import add_request_id
from provider.telemetry.spans import Tracing
from provider.telemetry.tracing import open_tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of applications that are opened from now on go."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(composition, "open_tracing", lambda *_: Tracing(provider))
    return exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_a_request_has_a_span_for_each_stage_in_the_callers_trace(
    exported: InMemorySpanExporter, open_app: Any
) -> None:
    async with open_app() as client:
        request = {"model": "org/model", "input": ["one", "two"]}
        assert (await client.post("/v1/embeddings", json=request, headers=TRACEPARENT)).status_code == 200
    spans = by_name(exported)
    root = spans.pop("POST /v1/embeddings")
    assert format(root.context.trace_id, "032x") == TRACE
    assert format(root.parent.span_id, "016x") == PARENT
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["gen_ai.request.model"] == "org/model"
    assert root.attributes["gen_ai.usage.input_tokens"] > 0
    stages = ("receive", "tokenise", "queue", "forward", "write")
    assert set(spans) == set(stages)
    assert {span.parent.span_id for span in spans.values()} == {root.context.span_id}
    instants = [root.start_time]
    for name in stages:
        instants += [spans[name].start_time, spans[name].end_time]
    assert instants == sorted(instants)
    assert instants[-1] <= root.end_time


async def test_a_cached_input_has_neither_queue_nor_forward_pass(exported: InMemorySpanExporter, open_app: Any) -> None:
    async with open_app() as client:
        for user in ("a", "b"):
            exported.clear()
            await client.post("/v1/embeddings", json={"model": "org/model", "input": "one", "user": user})
    assert set(by_name(exported)) == {"POST /v1/embeddings", "receive", "tokenise", "write"}


async def test_errors_probes_and_unknown_paths(exported: InMemorySpanExporter, open_app: Any) -> None:
    async with open_app() as client:
        await client.get("/health/ready")
        assert not by_name(exported)
        await client.request("BREW", "/no/such/path")
        assert by_name(exported)["_OTHER"].attributes["http.response.status_code"] == 404
        client.app.state.service.runtimes["org/model"].loaded.backend.failing = True
        exported.clear()
        await client.post("/v1/embeddings", json={"model": "org/model", "input": "one"})
    root = by_name(exported)["POST /v1/embeddings"]
    assert (root.status.status_code, root.attributes["error.type"]) == (StatusCode.ERROR, "500")


async def test_log_lines_of_a_request_say_its_trace(
    exported: InMemorySpanExporter, open_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provider.request")
    async with open_app() as client:
        with structlog.testing.capture_logs(processors=[add_request_id]) as lines:
            await client.post("/v1/embeddings", json={"model": "org/model", "input": "one"}, headers=TRACEPARENT)
    (line,) = [line for line in lines if line["event"] == "request"]
    assert line["trace_id"] == TRACE


@pytest.mark.usefixtures("exported")
async def test_headers_that_cannot_be_read_are_told_to_nobody(open_app: Any) -> None:
    odd = {"traceparent": "0" * 600, "baggage": "k=v," * 3000, "tracestate": "a=b,\x80"}
    stream = io.StringIO()
    configure_logging(LogSettings(), stream)
    async with open_app() as client:
        for headers in (odd, odd | TRACEPARENT):
            request = {"model": "org/model", "input": "one"}
            sent = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
            assert (await client.post("/v1/embeddings", json=request, headers=sent)).status_code == 200
    assert "opentelemetry" not in stream.getvalue()
    assert '"event":"request"' in stream.getvalue()


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An OTLP receiver: its URL, and path and body of what came."""
    came: list[tuple[str, bytes]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()
        thread.join(PATIENCE_SECONDS)


async def test_spans_reach_a_collector_by_the_standard_variables(
    monkeypatch: pytest.MonkeyPatch, open_app: Any
) -> None:
    with collector() as (url, came):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        async with open_app() as client:
            await client.post("/v1/embeddings", json={"model": "org/model", "input": "one"}, headers=TRACEPARENT)
    assert {path for path, _ in came} == {"/v1/traces"}
    resources = [each for _, body in came for each in ExportTraceServiceRequest.FromString(body).resource_spans]
    assert {(each.key, each.value.string_value) for each in resources[0].resource.attributes} >= {
        ("service.name", "emb-provider")
    }
    spans = [span for each in resources for scope in each.scope_spans for span in scope.spans]
    assert {span.name for span in spans} >= {"POST /v1/embeddings", "forward"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}


async def test_a_collector_that_does_not_answer_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(provider, "shutdown", released.wait)
    monkeypatch.setattr("provider.telemetry.spans._FLUSH_SECONDS", 0.01)
    await asyncio.wait_for(Tracing(provider).close(), PATIENCE_SECONDS)
    assert not released.is_set()
    released.set()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, "zipkin"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}, "grpc"),
    ],
)
def test_variables_that_ask_for_something_else_turn_tracing_off(
    environment: dict[str, str], reason: str | None
) -> None:
    with structlog.testing.capture_logs() as lines:
        assert open_tracing(environment) is None
    assert [reason in line["reason"] for line in lines] == ([True] if reason else [])


def test_variables_that_opentelemetry_itself_refuses_turn_tracing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with structlog.testing.capture_logs() as lines:
        assert open_tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}) is None
    (line,) = lines
    assert line["event"] == "tracing_off"
    assert "max_queue_size must be a positive integer" in line["reason"]


def test_nothing_of_it_is_imported_when_it_is_off() -> None:
    code = (
        "import re, sys; from provider.app import create_app; from provider.settings import Settings, ModelSettings; "
        "create_app(Settings(model=ModelSettings(backend='torch'))); "
        # Litestar imports constants (opentelemetry.semconv) wherever they are installed.
        "print([name for name in sys.modules if re.match(r'opentelemetry\\.(?!semconv)', name)])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    assert done.stdout == "[]\n"
