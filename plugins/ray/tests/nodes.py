"""A Ray cluster of several nodes on this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import waiting
from emb_provider_ray.data import EmbeddingActor
from ray import serve
from ray.cluster_utils import Cluster

OBJECT_BYTES = 100 * 1024 * 1024
"""Of a node's object store."""


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A head with 8 logical cores and a second node with 4 and the resource `second`."""
    os.environ |= {
        # Functions of tests run in Ray's processes.
        "PYTHONPATH": os.pathsep.join(str(Path(each).parent) for each in (waiting.__file__, __file__)),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A process for each logical core, which takes a second of a real one to start.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
        # On a busy machine a process may need longer to start, or to answer, than Ray expects of a server.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
    }
    node = {"object_store_memory": OBJECT_BYTES, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 8, **node})
    try:
        found.add_node(num_cpus=4, object_store_memory=OBJECT_BYTES, resources={"second": 4.0})
        ray.init(found.address, log_to_driver=False)
        yield found
    finally:
        serve.shutdown()
        ray.shutdown()
        found.shutdown()


def is_alive(node: str) -> bool:
    """Whether the cluster counts on a node."""
    return any(each["Alive"] and each["NodeID"] == node for each in ray.nodes())


def embedding_actors(node: str) -> int:
    """How many of a dataset's run on a node."""
    found = ray._private.state.actors().values()
    return sum(
        each["State"] == "ALIVE"
        and each["Address"]["NodeID"] == node
        and EmbeddingActor.__name__ in each["ActorClassName"]
        for each in found
    )
