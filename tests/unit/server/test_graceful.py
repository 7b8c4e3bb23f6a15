"""What a server does beside answering."""

from pathlib import Path

import pytest

from provider.app import create_app
from provider.server import graceful
from provider.server.graceful import GracefulServer
from provider.settings import ModelSettings, Settings


async def test_garbage_is_settled_whenever_models_have_come_or_gone(
    minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[list[str]] = []
    model = ModelSettings(name="m", path=str(minilm), backend="fake", tune=False, lazy=True)
    settings = Settings(model=model)
    app = create_app(settings)
    server = GracefulServer(app, settings.server, on_listening=lambda: None, on_loaded=lambda _: None)
    runtimes = app.state.service.runtimes
    monkeypatch.setattr(
        graceful,
        "settle_garbage",
        lambda: loaded.append([name for name, each in runtimes.items() if each.loaded is not None]),
    )
    await server.on_tick(0)
    assert loaded == []
    await runtimes["m"].start_loading()
    for counter in (1, 10, 20):
        await server.on_tick(counter)
    assert loaded == [["m"]]
    await runtimes["m"].unload("idle")
    await server.on_tick(30)
    assert loaded == [["m"], []]
    await app.state.service.close()
