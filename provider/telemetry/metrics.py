"""Prometheus metrics: one registry an application, every series there from the start at zero, labels bounded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen
from litestar import Request, Response, get
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from provider.domain import ALONE, Worker
from provider.engine.hooks import BatchDone, Event, ModelChanged, ModelState, RequestEmbedded, RequestWaited
from provider.telemetry.request import RequestRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = {method.value for method in HttpMethod}
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@frozen
class _ModelSeries:
    """What is counted and observed for one model."""

    inputs: Counter
    tokens: Counter
    truncated: Counter
    hits: Counter
    misses: Counter
    tokenise: Histogram
    queue: Histogram
    forward: Histogram
    batch_rows: Histogram
    batch_tokens: Histogram
    failures: Counter


class Metrics:
    """Listens to the engine (`on_event`) and to finished requests (`on_request`)."""

    def __init__(self, models: Sequence[str], names: Mapping[str, str], worker: Worker = ALONE) -> None:
        """Register every series.

        Args:
            models: configured names; no other value ever becomes a `model` label.
            names: every name that clients may use, to the configured name.
            worker: if it is not alone, every series says which one it is of, and a scrape gets a connection of its
                own: over one that is kept, it would meet the same worker every time.
        """
        self.registry = CollectorRegistry()
        self._worker = worker
        self._names = names

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(f"emb_provider_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: Sequence[str]) -> Gauge:
            return Gauge(f"emb_provider_{name}", text, labels, registry=self.registry)

        def seconds(name: str, text: str, labels: Sequence[str] = ("model",)) -> Histogram:
            return Histogram(f"emb_provider_{name}_seconds", text, labels, buckets=_SECONDS, registry=self.registry)

        def sizes(name: str, text: str) -> Histogram:
            return Histogram(f"emb_provider_{name}", text, ("model",), buckets=_SIZES, registry=self.registry)

        one = ("model",)
        self._requests = counter("requests", "Requests answered", ("route", "method", "model", "status"))
        self._request_seconds = seconds("request", "From request to answer", ("route", "model"))
        inputs = counter("inputs", "Inputs embedded or found in the cache", one)
        tokens = counter("tokens", "Tokens of those inputs, as in usage", one)
        truncated = counter("truncated_inputs", "Inputs that were cut", one)
        hits = counter("cache_hits", "Inputs whose vector was in the cache", one)
        misses = counter("cache_misses", "Inputs whose vector was not", one)
        tokenise = seconds("tokenise", "Tokenising one request")
        queue = seconds("queue", "Longest wait in the queue of a batch's rows")
        forward = seconds("forward", "One forward pass")
        batch_rows = sizes("batch_rows", "Rows of one forward pass")
        batch_tokens = sizes("batch_tokens", "Tokens of one forward pass, padding not counted")
        failures = counter("batch_failures", "Forward passes that failed", one)
        self._queue_rows = gauge("queue_rows", "Rows that wait", one)
        self._queue_tokens = gauge("queue_tokens", "Tokens that wait", one)
        self._state = gauge("model_state", "1 for the state the model is in", ("model", "state"))
        self._load_seconds = gauge("model_load_seconds", "What loading took, download included", one)
        self._cache_bytes = Gauge("emb_provider_cache_bytes", "Memory of cached vectors", registry=self.registry)
        self._under_way = Gauge("emb_provider_requests_under_way", "Requests admitted to embed", registry=self.registry)
        self._waiting = Gauge("emb_provider_waiting_requests", "Requests that wait for room", registry=self.registry)
        waited = seconds("waiting", "Wait for room of requests that did not find it at once", ("outcome",))
        self._waited = {outcome: waited.labels(outcome) for outcome in ("admitted", "refused", "left")}
        # Looked up once: `labels` takes longer than counting. It also registers every series at zero: one that appears
        # with its first event cannot be alerted on, and its first increase is lost.
        self._series = {
            model: _ModelSeries(
                inputs.labels(model),
                tokens.labels(model),
                truncated.labels(model),
                hits.labels(model),
                misses.labels(model),
                tokenise.labels(model),
                queue.labels(model),
                forward.labels(model),
                batch_rows.labels(model),
                batch_tokens.labels(model),
                failures.labels(model),
            )
            for model in models
        }
        self._answered: dict[tuple[str, str, str, int], tuple[Counter, Histogram]] = {}
        for model in models:
            for each in (self._queue_rows, self._queue_tokens, self._load_seconds):
                each.labels(model)
            for state in ModelState:
                self._state.labels(model, str(state)).set(state is ModelState.WAITING)
            self._requests.labels("/v1/embeddings", "POST", model, "200")
            self._request_seconds.labels("/v1/embeddings", model)

    def watch_service(
        self, cached_bytes: Callable[[], int], under_way: Callable[[], int], waiting: Callable[[], int]
    ) -> None:
        """Ask for the cache's size, the requests under way and those that wait for room at every scrape."""
        self._cache_bytes.set_function(cached_bytes)
        self._under_way.set_function(under_way)
        self._waiting.set_function(waiting)

    def watch_queue(self, model: str, waiting: Callable[[], tuple[int, int]]) -> None:
        """Ask `waiting` for a model's rows and tokens at every scrape: callers who leave change them too."""
        self._queue_rows.labels(model).set_function(lambda: waiting()[0])
        self._queue_tokens.labels(model).set_function(lambda: waiting()[1])

    def on_event(self, event: Event) -> None:
        """A hook."""
        match event:
            case RequestEmbedded(model=model, usage=usage):
                series = self._series[model]
                series.inputs.inc(usage.inputs)
                series.tokens.inc(usage.tokens)
                series.hits.inc(usage.cache_hits)
                series.misses.inc(usage.inputs - usage.cache_hits)
                series.tokenise.observe(event.timings.tokenise_seconds)
                if event.truncated:
                    series.truncated.inc(event.truncated)
            case BatchDone(model=model):
                series = self._series[model]
                series.queue.observe(event.queue_seconds)
                series.forward.observe(event.forward_seconds)
                series.batch_rows.observe(event.rows)
                series.batch_tokens.observe(event.tokens)
                if event.error is not None:
                    series.failures.inc()
            case RequestWaited():
                self._waited[event.outcome].observe(event.seconds)
            case ModelChanged(model=model):
                for state in ModelState:
                    self._state.labels(model, str(state)).set(state is event.state)
                seconds = event.detail.get("seconds_in_all")
                if isinstance(seconds, float):
                    self._load_seconds.labels(model).set(seconds)
            case _:
                pass

    def on_request(self, record: RequestRecord) -> None:
        """A finished request. Models that are not configured count under an empty label, odd methods as `other`."""
        model = self._names.get(record.model or "", "")
        method = record.method if record.method in _METHODS else "other"
        key = (record.route, method, model, record.status)
        answered = self._answered.get(key)
        if answered is None:
            answered = self._answered[key] = (
                self._requests.labels(record.route, method, model, str(record.status)),
                self._request_seconds.labels(record.route, model),
            )
        count, duration = answered
        count.inc()
        duration.observe(record.seconds)

    def handler(self, path: str) -> HTTPRouteHandler:
        """The route that Prometheus scrapes."""

        @get(path, tags=["Service"], media_type="text/plain", sync_to_thread=False)
        def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
            """All metrics in Prometheus' text format, or in OpenMetrics' if `accept` asks for it."""
            encode, content_type = _encoder(request.headers.get("accept", ""))
            # As a header: Litestar would add a second charset to a media type.
            headers = {"content-type": content_type}
            if self._worker.is_alone:
                return Response(encode(self.registry), headers=headers)
            return Response(encode(_OfWorker(self.registry, self._worker)), headers=headers | {"connection": "close"})

        return metrics


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:  # a version that is no number
        return choose_encoder("")


class _OfWorker(Collector):
    """A registry whose every series has the label `worker`: series of two processes must never be taken for one."""

    def __init__(self, registry: CollectorRegistry, worker: Worker) -> None:
        self._registry, self._label = registry, {"worker": str(worker.number)}

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample._replace(labels=self._label | dict(sample.labels)) for sample in metric.samples]
            yield metric
