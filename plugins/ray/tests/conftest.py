"""One Ray cluster of two nodes on this machine for all tests that need one: `scripts/test --cluster`."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import waiting

with warnings.catch_warnings():
    # Ray declares its settings in a way that pydantic means to drop.
    warnings.simplefilter("ignore")
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

_OBJECT_BYTES = 100 * 1024 * 1024


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the cluster is marked so, and Ray's own warnings are not ours."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A head with 8 logical cores and a second node with 4 and the resource `second`."""
    os.environ |= {
        # Functions of tests run in Ray's processes.
        "PYTHONPATH": str(Path(waiting.__file__).parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        # On a busy machine a process may need longer to start, or to answer, than Ray expects of a server.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    }
    node = {"object_store_memory": _OBJECT_BYTES, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, **node})
    try:
        found.add_node(num_cpus=4, object_store_memory=_OBJECT_BYTES, resources={"second": 4.0})
        ray.init(found.address, log_to_driver=False)
        yield found
    finally:
        serve.shutdown()
        ray.shutdown()
        found.shutdown()
