"""Gauges: read from the service whenever Prometheus asks."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Gauge

from provider.engine.hooks import ModelState
from provider.engine.runtime import ModelRuntime

_OF_MODELS: dict[str, tuple[str, Callable[[ModelRuntime], float]]] = {
    "queue_rows": ("Rows in the queue", lambda runtime: runtime.waiting[0]),
    "queue_tokens": ("Tokens in the queue", lambda runtime: runtime.waiting[1]),
    "queue_expected_seconds": (
        "Time that all queued tokens take at the measured rate",
        lambda runtime: runtime.lanes.expected_seconds if runtime.lanes else 0,
    ),
    "measured_tokens_per_second": (
        "Measured rate of all lanes, each as if it were busy",
        lambda runtime: runtime.lanes.tokens_per_second if runtime.lanes else 0,
    ),
    "lanes": (
        "Forward passes at a time; busy share: `rate(emb_provider_forward_seconds_sum[5m]) / emb_provider_lanes`",
        lambda runtime: runtime.lanes.count if runtime.loaded and runtime.lanes else 0,
    ),
    "stalled_lanes": ("Lanes that hang in a forward pass", lambda runtime: runtime.stalled_lanes),
    "model_resident_bytes": ("Memory that loading the model took; 0: not loaded", lambda runtime: runtime.use.bytes),
}
_OF_SERVICE = {
    "cache_bytes": "Memory of the cache",
    "requests_under_way": "Admitted requests that are not answered yet",
    "waiting_requests": "Requests that wait for admission, their body unread",
    "open_connections": "Connections of clients",
    "jobs_running": "Batches that run",
    "jobs_paused": "Running batches that do not advance",
    "job_file_bytes": "Bytes of all files of batches, counted when one is written",
}


class Gauges:
    """What is asked at each scrape.

    Attributes:
        load_seconds: set by whoever hears that a model has loaded.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register every gauge."""

        def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
            return Gauge(f"emb_provider_{name}", text, labels, registry=registry)

        one = ("model",)
        self._of_models = {name: gauge(name, text, one) for name, (text, _) in _OF_MODELS.items()}
        self._of_service = {name: gauge(name, text) for name, text in _OF_SERVICE.items()}
        self._state = gauge("model_state", "1 for the current state", ("model", "state"))
        self.load_seconds = gauge("model_load_seconds", "Load time, download included", one)

    def add_model(self, model: str) -> None:
        """Register a model's gauges, at zero."""
        self.load_seconds.labels(model)
        self.watch_model(model, lambda: None)

    def watch_service(self, **read: Callable[[], float]) -> None:
        """Read gauges of the service, by name (`cache_bytes`, `requests_under_way` …)."""
        for name, function in read.items():
            self._of_service[name].set_function(function)

    def watch_model(self, model: str, find: Callable[[], ModelRuntime | None]) -> None:
        """Read the gauges of a model from what `find` gives; None: it was removed."""

        def ask(read: Callable[[ModelRuntime], float]) -> Callable[[], float]:
            return lambda: 0 if (runtime := find()) is None else read(runtime)

        for name, (_, read) in _OF_MODELS.items():
            self._of_models[name].labels(model).set_function(ask(read))
        for state in ModelState:
            is_in = ask(lambda runtime, state=state: runtime.state is state)  # type: ignore[misc]
            self._state.labels(model, str(state)).set_function(is_in)
