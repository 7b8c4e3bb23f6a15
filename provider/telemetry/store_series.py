"""Series of the cache's store."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Gauge

from provider.engine.hooks import Event, StoreChanged, StoreRead, StoreWritten
from provider.telemetry.series import Counter, Histogram

_OUTCOMES = ("found", "missing", "corrupt", "written", "dropped")
_OPERATIONS = ("read", "write")


class StoreSeries:
    """What is counted of the cache's store; all zero where there is none."""

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        """Register every series."""
        entries = Counter(
            "emb_provider_cache_store_entries",
            "Entries of the cache's store, by what became of them",
            ("outcome",),
            registry=registry,
        )
        self._entries = {outcome: entries.labels(outcome) for outcome in _OUTCOMES}
        failures = Counter(
            "emb_provider_cache_store_failures",
            "How often the cache's store was given up, until it worked again",
            ("operation",),
            registry=registry,
        )
        self._failures = {operation: failures.labels(operation) for operation in _OPERATIONS}
        down = Gauge(
            "emb_provider_cache_store_down",
            "1 while the cache's store is skipped",
            ("operation",),
            registry=registry,
        )
        self._down = {operation: down.labels(operation) for operation in _OPERATIONS}
        read = Histogram(
            "emb_provider_cache_store_read_seconds",
            "One lookup in the cache's store, of up to 128 entries",
            (),
            buckets=buckets,
            registry=registry,
        )
        self._read = read.labels()

    def on_event(self, event: Event) -> None:
        """A hook."""
        match event:
            case StoreRead():
                self._entries["found"].value += event.found
                self._entries["missing"].value += event.missing
                self._entries["corrupt"].value += event.corrupt
                self._read.observe(event.seconds)
            case StoreWritten():
                self._entries["written"].value += event.written
                self._entries["dropped"].value += event.dropped
            case StoreChanged():
                self._down[event.operation].set(not event.is_up)
                if not event.is_up:
                    self._failures[event.operation].value += 1
            case _:
                pass
