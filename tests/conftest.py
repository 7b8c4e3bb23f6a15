"""What most tests need: the packaged model's folder, and a service in process."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT, ServerProcess, running

from provider.engine.hooks import Event, Hooks
from provider.engine.service import EmbeddingService
from provider.settings import Settings
from provider.testing import packaged_minilm


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    return packaged_minilm()


@pytest.fixture(scope="session", autouse=True)
def fake_distribution(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An installed distribution that registers the fake backend as `fake`, found the way any plugin is."""
    site = tmp_path_factory.mktemp("site")
    info = site / "emb_provider_fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: emb-provider-fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[provider.backends]\nfake = provider.testing:FakeBackend\n")
    sys.path.insert(0, str(site))
    yield site
    sys.path.remove(str(site))


@pytest.fixture(scope="session")
def shipped() -> Iterator[ServerProcess]:
    """`scripts/serve` with the shipped `litestar.yaml`, for tests that only ask it."""
    with running(["--port", "0"], command=[str(ROOT / "scripts" / "serve")]) as server:
        server.wait_until_ready()
        yield server


OpenService = Callable[..., AbstractAsyncContextManager[EmbeddingService]]


@pytest.fixture
def open_service() -> OpenService:
    """A service with all its models loaded (`wait=False`: loading); closed at the end."""

    @asynccontextmanager
    async def opened(
        settings: Settings, *, wait: bool = True, events: list[Event] | None = None
    ) -> AsyncIterator[EmbeddingService]:
        hooks = Hooks(*([events.append] if events is not None else []))
        service = EmbeddingService(settings, hooks).open()
        try:
            if wait:
                for runtime in service.runtimes.values():
                    await runtime.start_loading()
            yield service
        finally:
            await service.close()

    return opened


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Cheap tests first: a slip is told in seconds."""
    order = {"unit": 0, "api": 1, "backends": 2, "hub": 3, "clients": 4, "live": 5}
    root = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(root).parts[0], 9) if root in item.path.parents else 9)
