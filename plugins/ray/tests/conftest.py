"""One Ray cluster of two nodes on this machine for all tests that need one: `scripts/test --cluster`."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

with warnings.catch_warnings():
    # Ray declares its settings in a way that pydantic means to drop.
    warnings.simplefilter("ignore")
    from nodes import two_nodes

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever needs the cluster is marked so, and Ray's own warnings are not ours."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def cluster() -> Iterator["Cluster"]:
    """See `two_nodes`."""
    with two_nodes() as found:
        yield found
