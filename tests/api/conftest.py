"""The application in process, on the fake backend."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar

from provider.app import create_app
from provider.settings import ModelSettings, Settings


class AppClient(httpx.AsyncClient):
    """An HTTP client of an application in this process."""

    def __init__(self, app: Litestar, transport: httpx.ASGITransport) -> None:
        super().__init__(transport=transport, base_url="http://testserver.local")
        self.app = app


@asynccontextmanager
async def _running(app: Litestar) -> AsyncIterator[None]:
    """The application's lifespan, in a task of its own: a fixture's two halves run in different tasks."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await ended.wait()

    task = asyncio.create_task(live())
    await asyncio.wait({task, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        ended.set()
        await task


OpenApp = Callable[..., AbstractAsyncContextManager[AppClient]]


@pytest.fixture
def model(minilm: Path) -> ModelSettings:
    """A model on the fake backend, whose name has a slash."""
    return ModelSettings(
        name="org/model", path=str(minilm), backend="fake", aliases=["text-embedding-3-small"], lanes=1
    )


@pytest.fixture
def open_app(model: ModelSettings) -> OpenApp:
    """A client of the application; sections of the settings by keyword."""

    @asynccontextmanager
    async def opened(*, wait: bool = True, **sections: Any) -> AsyncIterator[AppClient]:
        app = create_app(Settings(**({"model": model} | sections)))
        # Not Litestar's test client: its application runs on an event loop of its own, out of the tests' reach.
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with _running(app), AppClient(app, transport) as client:
            if wait:
                for runtime in app.state.service.runtimes.values():
                    await runtime.start_loading()
                for runtime in app.state.service.runtimes.values():
                    await runtime.settled()
            yield client

    return opened


@pytest.fixture
async def client(open_app: OpenApp) -> AsyncIterator[AppClient]:
    """A client of the application with default settings."""
    async with open_app() as opened:
        yield opened
