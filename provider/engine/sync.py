"""The engine for programs without an event loop: scripts, notebooks, data pipelines."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

from provider.domain import Embedded, EmbedRequest, Scored, ScoreRequest
from provider.engine.engine import Engine
from provider.engine.verdict import Verify
from provider.settings import Settings

T = TypeVar("T")


class SyncEngine:
    """An `Engine` on an event loop in a thread of its own. Methods may be called from any thread, several at a time."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        """Use `open`."""
        self._engine, self._loop = engine, loop

    @classmethod
    @contextmanager
    def open(
        cls,
        settings: Settings,
        *,
        cores: int | None = None,
        verify: Verify | None = None,
        show_progress: bool = False,
    ) -> Iterator[Self]:
        """An engine whose models are loaded; it is closed at the end. Arguments and errors as of `Engine.open`."""
        opened: Future[Self] = Future()
        loop, end = asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            async with Engine.open(settings, cores=cores, verify=verify, show_progress=show_progress) as engine:
                opened.set_result(cls(engine, loop))
                await end.wait()

        async def serve_until_end() -> None:
            serving, ending = asyncio.create_task(serve()), asyncio.create_task(end.wait())
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not opened.done() or opened.cancelled():
                serving.cancel()
            await serving

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=lambda: loop) as runner:
                    runner.run(serve_until_end())
            except BaseException as exc:
                if opened.cancelled():
                    return
                if opened.done():
                    raise
                opened.set_exception(exc)

        thread = threading.Thread(target=run, name="emb-provider engine", daemon=True)
        thread.start()
        try:
            yield opened.result()
        finally:
            # Nothing is cancelled once the models are loaded, or one could not be.
            opened.cancel()
            # Then the loop may be closed already.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(end.set)
            thread.join()

    def embed(self, request: EmbedRequest) -> Embedded:
        """See `Engine.embed`."""
        return self._wait(self._engine.embed(request))

    def score(self, request: ScoreRequest) -> Scored:
        """See `Engine.score`."""
        return self._wait(self._engine.score(request))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            # Interrupted: what nobody waits for is not run.
            future.cancel()
            raise
