"""What nodes lack is known before anything waits for it."""

import pytest
from emb_provider_ray.room import Reservation, shortage

NODES = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 4.0, "second": 4.0}]


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "count", "says"),
    [
        (1, 0, {}, 12, None),
        (0, 0, {}, 100, None),
        (8, 0, {}, 1, None),
        (1, 1, {}, 0, None),
        (1, 1, {}, 1, "replicas: got num_cpus 1, num_gpus 1, but no node has num_gpus 1; nodes have: "),
        (9, 0, {}, 1, "no node has num_cpus 9"),
        (8, 0, {"second": 1}, 1, "no node has num_cpus 8, second 1 together"),
        (1, 0, {"second": 1}, 5, "second: replicas 5 x 1 are 5, but all nodes together have 4"),
        (2, 0, {}, 7, "num_cpus: replicas 7 x 2 are 14, but all nodes together have 12"),
    ],
)
def test_what_is_missing_is_named(
    cpus: float, gpus: float, resources: dict[str, float], count: int, says: str | None
) -> None:
    found = shortage([Reservation.of("replicas", cpus, gpus, resources, count=count)], NODES)
    assert found is None if says is None else says in (found or "")
