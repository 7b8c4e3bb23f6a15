"""What `connected` says where there is no cluster."""

import pytest
import ray
from emb_provider_ray.deploying import connected

from provider.errors import ServerFailed
from provider.settings import ServerSettings


def test_an_address_without_a_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray.is_initialized()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ServerFailed, match="auto"), connected("auto", ServerSettings()):
        pass
