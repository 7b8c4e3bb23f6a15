"""Prometheus metrics: one registry an application, every series there from the start at zero, labels bounded."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, get_args

from attrs import frozen
from litestar import Request, Response, get
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from litestar.types import Middleware
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from provider import errors
from provider.cores import ONLY_WORKER, Worker
from provider.engine.hooks import (
    BatchDone,
    ConnectionDropped,
    DropReason,
    Event,
    JobChanged,
    ModelChanged,
    RequestAnswered,
    RequestWaited,
)
from provider.telemetry.gauges import Gauges
from provider.telemetry.request import RequestRecord
from provider.telemetry.series import Count, Counter, Distribution, Histogram, Labelled
from provider.telemetry.store_series import StoreSeries

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# What runs a model; not every model answers each of them.
_TASKS = {"/v1/embeddings": "embed", "/v1/rerank": "rerank", "/v1/score": "score", "/v1/classify": "classify"}
_JOB_STATES = (
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
)
_LEVELS = ("response", "output", "store")
_LOOP_DELAY_PERIOD = 0.25
_REASONS = {
    kind: re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ProviderError) and kind.public
} | {errors.ProviderError: "internal"}
_METHODS = {method.value for method in HttpMethod}
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@frozen
class _ModelSeries:
    """What is counted and observed for one model."""

    inputs: Count
    tokens: Count
    truncated: Count
    hits: Mapping[str, Count]
    misses: Count
    tokenise: Distribution
    queue: Distribution
    forward: Distribution
    batch_rows: Distribution
    batch_tokens: Distribution
    padding: Count
    failures: Count


class Metrics:
    """Listens to the engine (`on_event`) and to finished requests (`on_request`).

    Attributes:
        registry: all of them.
        gauges: those that are read at each scrape.
        store: those of the cache's store; its `on_event` is a hook of its own.
        gather: all that a scrape gets; None for this process's own.
    """

    def __init__(self, models: Sequence[str], names: Mapping[str, str], worker: Worker = ONLY_WORKER) -> None:
        """Register every series.

        Args:
            models: configured names; no other value ever becomes a `model` label.
            names: every name that clients may use, to the configured name.
            worker: if it is not alone, every series says which one it is of, and a scrape gets a connection of its
                own: over one that is kept, it would meet the same worker every time.
        """
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._worker = worker
        self._names = names
        self.gather: Callable[[], Awaitable[Collector]] | None = None

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(f"emb_provider_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str, labels: Sequence[str] = ("model",)) -> Histogram:
            return Histogram(f"emb_provider_{name}_seconds", text, labels, buckets=_SECONDS, registry=self.registry)

        def sizes(name: str, text: str) -> Histogram:
            return Histogram(f"emb_provider_{name}", text, ("model",), buckets=_SIZES, registry=self.registry)

        one = ("model",)
        self._requests = counter(
            "requests",
            "Requests answered; `task` is empty for routes that run no model",
            ("route", "method", "model", "status", "task"),
        )
        self._request_seconds = seconds("request", "From request to answer", ("route", "model", "task"))
        inputs = counter("inputs", "Inputs, computed or cached", one)
        tokens = counter("tokens", "Tokens of those inputs, as in `usage`", one)
        truncated = counter("truncated_inputs", "Inputs that were cut", one)
        hits = counter(
            "cache_hits",
            "Inputs found in the cache: the whole response, the output of the model, or that in the cache's store",
            ("model", "level"),
        )
        misses = counter("cache_misses", "Inputs not found in the cache", one)
        tokenise = seconds("tokenise", "Tokenising one request")
        queue = seconds("queue", "Longest wait of a batch's rows")
        forward = seconds("forward", "One forward pass")
        batch_rows = sizes("batch_rows", "Rows of a batch")
        batch_tokens = sizes("batch_tokens", "Tokens of a batch, without padding")
        padding = counter(
            "padding_tokens", "Tokens that batches were padded with; 0 where the backend does not pad", one
        )
        failures = counter("batch_failures", "Failed forward passes", one)
        self._dialect_requests = counter("dialect_requests", "Requests in each API", ("dialect", "status"))
        self._caller_requests = counter(
            "caller_requests", "Requests of each key to models", ("caller", "model", "status")
        )
        self._caller_tokens = counter("caller_tokens", "Tokens of each key's inputs", ("caller", "model"))
        jobs = counter("jobs", "Batches that entered a state", ("state",))
        self._jobs = {state: jobs.labels(state) for state in _JOB_STATES}
        self._job_requests = counter(
            "job_requests",
            "Requests of batches that were run; they are no part of `emb_provider_requests_total`",
            ("endpoint", "model", "status"),
        )
        self.store = StoreSeries(self.registry, _SECONDS)
        self.gauges = Gauges(self.registry)
        waited = seconds("waiting", "Wait for admission of requests that were not admitted at once", ("outcome",))
        self._waited = {outcome: waited.labels(outcome) for outcome in ("admitted", "refused", "left")}
        dropped = counter("connections_dropped", "Connections that the server ended, by reason", ("reason",))
        self._dropped = {reason: dropped.labels(reason) for reason in get_args(DropReason)}

        refusals = counter(
            "refusals", "Requests answered with an error, by its class; `internal`: any other", ("reason",)
        )
        self._refusals = {kind: refusals.labels(reason) for kind, reason in _REASONS.items()}
        self._loop_delay = seconds(
            "event_loop_delay", "How late the event loop does what is due, measured four times a second", ()
        ).labels()

        def series(model: str) -> _ModelSeries:
            return _ModelSeries(
                inputs.labels(model),
                tokens.labels(model),
                truncated.labels(model),
                {level: hits.labels(model, level) for level in _LEVELS},
                misses.labels(model),
                tokenise.labels(model),
                queue.labels(model),
                forward.labels(model),
                batch_rows.labels(model),
                batch_tokens.labels(model),
                padding.labels(model),
                failures.labels(model),
            )

        self._make_series = series
        self._series: dict[str, _ModelSeries] = {}
        self._answered: dict[tuple[str, str, str, int, str], tuple[list[Count], Distribution]] = {}
        for model in models:
            self.add_model(model)

    def add_model(self, model: str) -> None:
        """Register a model's series, at zero."""
        # Looked up once: `labels` takes longer than counting. It also registers every series at zero: one that appears
        # with its first event cannot be alerted on, and its first increase is lost.
        self._series[model] = self._make_series(model)
        for route, task in _TASKS.items():
            self._requests.labels(route, "POST", model, "200", task)
            self._request_seconds.labels(route, model, task)
            self._job_requests.labels(route, model, "200")
        self.gauges.add_model(model)

    async def measure_loop_delay(self) -> None:
        """Measure how late the event loop does what is due, four times a second, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + _LOOP_DELAY_PERIOD
            await asyncio.sleep(_LOOP_DELAY_PERIOD)
            self._loop_delay.observe(max(0.0, clock() - due))

    def on_event(self, event: Event) -> None:
        """A hook."""
        match event:
            case RequestAnswered(model=model, usage=usage):
                series = self._series[model]
                series.inputs.value += usage.inputs
                series.tokens.value += usage.tokens
                # A response that is sent again was not tokenised.
                level = "output" if event.timings.instants else "response"
                series.hits[level].value += usage.cache_hits - usage.store_hits
                series.hits["store"].value += usage.store_hits
                series.misses.value += usage.inputs - usage.cache_hits
                series.tokenise.observe(event.timings.tokenise_seconds)
                if event.truncated:
                    series.truncated.value += event.truncated
            case BatchDone(model=model):
                series = self._series[model]
                series.queue.observe(event.queue_seconds)
                series.forward.observe(event.forward_seconds)
                series.batch_rows.observe(event.rows)
                series.batch_tokens.observe(event.tokens)
                series.padding.value += event.padding
                if event.error is not None:
                    series.failures.value += 1
            case RequestWaited():
                self._waited[event.outcome].observe(event.seconds)
            case ConnectionDropped():
                self._dropped[event.reason].value += 1
            case JobChanged():
                self._jobs[event.state].value += 1
            case ModelChanged(model=model):
                seconds = event.detail.get("seconds_in_all")
                if isinstance(seconds, float):
                    self.gauges.load_seconds.labels(model).set(seconds)
            case _:
                pass

    def on_request(self, record: RequestRecord) -> None:
        """A finished request. Models that are not configured count under an empty label, odd methods as `other`."""
        model = self._names.get(record.model or "", "")
        method = record.method if record.method in _METHODS else "other"
        key = (record.route, method, model, record.status, record.dialect)
        answered = self._answered.get(key)
        if answered is None:
            status = str(record.status)
            counts = [self._requests.labels(record.route, method, model, status, record.task)]
            if record.dialect:
                counts.append(self._dialect_requests.labels(record.dialect, status))
            duration = self._request_seconds.labels(record.route, model, record.task)
            answered = self._answered[key] = (counts, duration)
        counts, duration = answered
        for each in counts:
            each.value += 1
        duration.observe(record.seconds)
        if record.error is not None:
            self._refusals[next(kind for kind in record.error.__mro__ if kind in _REASONS)].value += 1
        self._count_caller(record, model)

    def on_job_request(self, record: RequestRecord) -> None:
        """A request of a job that was run: no part of the requests over HTTP, whose latencies it would hide."""
        model = self._names.get(record.model or "", "")
        self._job_requests.labels(record.route, model, str(record.status)).value += 1
        self._count_caller(record, model)

    def _count_caller(self, record: RequestRecord, model: str) -> None:
        if record.caller.name and record.task:
            # By the names of configured keys, so bounded; a request without an accepted key has none.
            self._caller_requests.labels(record.caller.name, model, str(record.status)).value += 1
            tokens = record.answered.usage.tokens if record.answered is not None else 0
            self._caller_tokens.labels(record.caller.name, model).value += tokens

    def handler(self, path: str, middleware: Sequence[Middleware] = ()) -> HTTPRouteHandler:
        """The route that Prometheus scrapes, behind `middleware`."""

        @get(
            path,
            tags=["Service"],
            media_type="text/plain",
            middleware=middleware,
            opt={"protected": "metrics", "is_admin": True},
        )
        async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
            """All metrics in Prometheus' text format, or in OpenMetrics' if `accept` asks for it."""
            encode, content_type = _encoder(request.headers.get("accept", ""))
            # As a header: Litestar would add a second charset to a media type.
            headers = {"content-type": content_type} | ({} if self._worker.is_alone else {"connection": "close"})
            labels = {} if self._worker.is_alone else {"worker": str(self._worker.number)}
            found = Labelled(self.registry, labels) if self.gather is None else await self.gather()
            return Response(encode(found), headers=headers)

        return metrics


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:  # a version that is no number
        return choose_encoder("")
