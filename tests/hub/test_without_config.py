"""Repositories without a `config.json` at the top: static models and Routers."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import HubServer

from provider.models.hub import download
from provider.models.spec import read_spec
from provider.testing.tiny import tiny_router, tiny_static


@pytest.mark.parametrize("make", [tiny_static, tiny_router])
def test_they_are_fetched_whole_and_found_again_offline(
    make: Callable[[Path], Path], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "model")
    with HubServer.of_folder(folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        snapshot = download("tests/tiny", cache_folder=cache)
        again = download("tests/tiny", cache_folder=cache, offline=True)
    assert again == snapshot
    ours, theirs = (
        read_spec(each, name="m", max_context_length=None, default_prompt=None)[0] for each in (folder, again.folder)
    )
    assert ours.fingerprint == theirs.fingerprint
