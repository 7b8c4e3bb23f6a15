"""What most tests need: the packaged model's folder, and a service in process."""

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog
from processes import ROOT, ServerProcess, running

from provider.engine.engine import Engine
from provider.engine.hooks import Event, Hooks
from provider.settings import Settings
from provider.testing import packaged_minilm
from provider.verification import verify_briefly

# The same examples in every run, however long the machine takes for one.
hypothesis.settings.register_profile(
    "steady", deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed package."""
    return packaged_minilm()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of its own for every run: what an earlier one tuned or converted decides nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


# structlog's own choice shows the variables of every frame: a model in one of them takes minutes.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a test does to the logging of its process ends with it."""
    root = logging.getLogger()
    configuration, handlers, level = structlog.get_config(), list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    structlog.configure(**configuration)
    root.handlers[:] = handlers
    root.setLevel(level)


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


OpenService = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture
def open_service() -> OpenService:
    """A service with all its models loaded and tuned (`wait=False`: loading); closed at the end."""

    @asynccontextmanager
    async def opened(
        settings: Settings, *, wait: bool = True, events: list[Event] | None = None
    ) -> AsyncIterator[Engine]:
        hooks = Hooks(*([events.append] if events is not None else []))
        service = Engine(settings, hooks, verify=verify_briefly).start()
        try:
            if wait:
                for runtime in service.runtimes.values():
                    await runtime.start_loading()
                for runtime in service.runtimes.values():
                    await runtime.settled()
            yield service
        finally:
            await service.close()

    return opened


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Cheap tests first: a slip is told in seconds."""
    order = {"unit": 0, "api": 1, "backends": 2, "hub": 3, "clients": 4, "live": 5}
    root = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(root).parts[0], 9) if root in item.path.parents else 9)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes that are no text go by their argument's name: compressed ones hold the time, and processes must agree."""
    return argname if isinstance(val, bytes) and not val.isascii() else None
