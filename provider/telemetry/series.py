"""Counters and histograms that are plain numbers until they are scraped. Used on the event loop's thread only.

Those of `prometheus_client` may be used from any thread: each increment takes a lock and three calls, and a short
request makes nine of them.
"""

import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One series of a counter: add to its `value`."""

    __slots__ = ("created", "value")

    def __init__(self) -> None:
        self.value, self.created = 0, time.time()


class Counter(Collector):
    """A counter. Each of its series is there, at zero, from the first call of `labels` for it."""

    def __init__(self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry) -> None:
        """Register a counter; `name` is without `_total`."""
        self._name, self._text, self._labels = name, text, labels
        self._series: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def labels(self, *values: str) -> Count:
        """The series whose labels have these values."""
        return self._series.setdefault(values, Count())

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, each in self._series.items():
            family.add_metric(values, each.value, created=each.created)
        yield family


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "created", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds, self.created = bounds, time.time()
        self.counts, self.sum = [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count `value` in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram(Collector):
    """A histogram. Each of its series is there, at zero, from the first call of `labels` for it."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """Register a histogram with buckets up to each of `buckets`, which ascend, and one up to infinity."""
        self._name, self._text, self._labels, self._bounds = name, text, labels, buckets
        self._series: dict[tuple[str, ...], Distribution] = {}
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """The series whose labels have these values."""
        return self._series.setdefault(values, Distribution(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """See `Collector.collect`."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, each in self._series.items():
            family.add_metric(values, list(zip(bounds, accumulate(each.counts), strict=True)), each.sum)
            family.add_sample(f"{self._name}_created", dict(zip(self._labels, values, strict=True)), each.created)
        yield family


class Labelled(Collector):
    """A collector whose every series has more labels: series of two processes must never be taken for one."""

    def __init__(self, collector: Collector, labels: Mapping[str, str]) -> None:
        """Nothing is collected yet.

        Args:
            collector: which one.
            labels: put before those of each series.
        """
        self._collector, self._labels = collector, dict(labels)

    def collect(self) -> Iterator[Metric]:
        """Called at a scrape."""
        for metric in self._collector.collect():
            metric.samples = [sample._replace(labels=self._labels | dict(sample.labels)) for sample in metric.samples]
            yield metric
