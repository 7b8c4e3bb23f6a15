"""Metrics of many processes as one: who counts what, and how they are joined."""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

_OF_REPLICAS = frozenset(
    f"emb_provider_{name}"
    for name in (
        "batch_failures",
        "batch_rows",
        "batch_tokens",
        "forward_seconds",
        "lanes",
        "measured_tokens_per_second",
        "model_load_seconds",
        "model_resident_bytes",
        "padding_tokens",
        "stalled_lanes",
    )
)
"""What a forward pass is counted in: by replicas alone, as the ingress would count it a second time."""


def families(registry: CollectorRegistry, *, of_replica: bool) -> list[Metric]:
    """What a process of this kind contributes: replicas forward passes, ingresses all else, both their process."""

    def is_own(name: str) -> bool:
        return name.startswith("process_") or (name in _OF_REPLICAS) == of_replica

    return [family for family in registry.collect() if is_own(family.name)]


class Joined(Collector):
    """Families of several processes, each series with the process that it is of."""

    def __init__(self, found: Mapping[str, Sequence[Metric]]) -> None:
        """Take what was found.

        Args:
            found: families by the replica's id.
        """
        self._found = found

    def collect(self) -> Iterator[Metric]:
        """Each family once."""
        joined: dict[str, Metric] = {}
        for replica, several in self._found.items():
            for family in several:
                whole = joined.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                whole.samples += [
                    sample._replace(labels={"replica": replica} | dict(sample.labels)) for sample in family.samples
                ]
        yield from joined.values()
