"""Prometheus metrics: one registry an application, every series there from the start at zero, labels bounded."""

from collections.abc import Callable, Sequence

from litestar import Response, get
from litestar.enums import HttpMethod
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from provider.engine.hooks import BatchDone, Event, ModelChanged, ModelState, RequestEmbedded
from provider.telemetry.request import RequestRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_METHODS = {method.value for method in HttpMethod}
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """Listens to the engine (`on_event`) and to finished requests (`on_request`)."""

    def __init__(self, models: Sequence[str], aliases: dict[str, str]) -> None:
        """Register every series.

        Args:
            models: configured names; no other value ever becomes a `model` label.
            aliases: other names to configured names.
        """
        self.registry = CollectorRegistry()
        self._names = {name: name for name in models} | aliases

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
        self._inputs = counter("inputs", "Inputs embedded or found in the cache", one)
        self._tokens = counter("tokens", "Tokens of those inputs, as in usage", one)
        self._truncated = counter("truncated_inputs", "Inputs that were cut", one)
        self._hits = counter("cache_hits", "Inputs whose vector was in the cache", one)
        self._misses = counter("cache_misses", "Inputs whose vector was not", one)
        self._tokenise = seconds("tokenise", "Tokenising one request")
        self._queue = seconds("queue", "Longest wait in the queue of a batch's rows")
        self._forward = seconds("forward", "One forward pass")
        self._batch_rows = sizes("batch_rows", "Rows of one forward pass")
        self._batch_tokens = sizes("batch_tokens", "Tokens of one forward pass, padding not counted")
        self._failures = counter("batch_failures", "Forward passes that failed", one)
        self._queue_rows = gauge("queue_rows", "Rows that wait", one)
        self._queue_tokens = gauge("queue_tokens", "Tokens that wait", one)
        self._state = gauge("model_state", "1 for the state the model is in", ("model", "state"))
        self._load_seconds = gauge("model_load_seconds", "What loading took, download included", one)
        self._cache_bytes = Gauge("emb_provider_cache_bytes", "Memory of cached vectors", registry=self.registry)
        self._under_way = Gauge("emb_provider_requests_under_way", "Requests admitted to embed", registry=self.registry)
        self._register_at_zero(models)

    def watch_service(self, cached_bytes: Callable[[], int], under_way: Callable[[], int]) -> None:
        """Ask for the cache's size and the requests under way at every scrape."""
        self._cache_bytes.set_function(cached_bytes)
        self._under_way.set_function(under_way)

    def watch_queue(self, model: str, waiting: Callable[[], tuple[int, int]]) -> None:
        """Ask `waiting` for a model's rows and tokens at every scrape: callers who leave change them too."""
        self._queue_rows.labels(model).set_function(lambda: waiting()[0])
        self._queue_tokens.labels(model).set_function(lambda: waiting()[1])

    def on_event(self, event: Event) -> None:
        """A hook."""
        match event:
            case RequestEmbedded(model=model, usage=usage):
                self._inputs.labels(model).inc(usage.inputs)
                self._tokens.labels(model).inc(usage.tokens)
                self._truncated.labels(model).inc(event.truncated)
                self._hits.labels(model).inc(usage.cache_hits)
                self._misses.labels(model).inc(usage.inputs - usage.cache_hits)
                self._tokenise.labels(model).observe(event.timings.tokenise_seconds)
            case BatchDone(model=model):
                self._queue.labels(model).observe(event.queue_seconds)
                self._forward.labels(model).observe(event.forward_seconds)
                self._batch_rows.labels(model).observe(event.rows)
                self._batch_tokens.labels(model).observe(event.tokens)
                if event.error is not None:
                    self._failures.labels(model).inc()
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
        self._requests.labels(record.route, method, model, str(record.status)).inc()
        self._request_seconds.labels(record.route, model).observe(record.seconds)

    def handler(self, path: str) -> HTTPRouteHandler:
        """The route that Prometheus scrapes."""

        @get(path, tags=["Service"], sync_to_thread=False)
        def metrics() -> Response[bytes]:
            """All metrics in Prometheus' text format."""
            return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

        return metrics

    def _register_at_zero(self, models: Sequence[str]) -> None:
        """A series that appears with its first event cannot be alerted on, and its first increase is lost."""
        for model in models:
            for metric in (self._inputs, self._tokens, self._truncated, self._hits, self._misses, self._failures):
                metric.labels(model)
            for histogram in (self._tokenise, self._queue, self._forward, self._batch_rows, self._batch_tokens):
                histogram.labels(model)
            for gauge in (self._queue_rows, self._queue_tokens, self._load_seconds):
                gauge.labels(model)
            for state in ModelState:
                self._state.labels(model, str(state)).set(state is ModelState.WAITING)
            self._requests.labels("/v1/embeddings", "POST", model, "200")
            self._request_seconds.labels("/v1/embeddings", model)
