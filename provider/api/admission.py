"""Admission to the routes that embed: before the body is read, until the last byte of the answer is sent."""

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from provider.api.body import Framing
from provider.engine.service import EmbeddingService
from provider.errors import CallerGone


class Admission:
    """ASGI middleware of a route.

    A handler ends when its answer begins to be sent; a client that reads slowly, or not at all, keeps the answer in
    memory for longer than that.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; raises as `RequestLimiter.admission`, and CallerGone if the client leaves before its turn comes."""
        state = scope["litestar_app"].state
        service: EmbeddingService = state.service
        limit: int = state.settings.server.max_body_bytes
        body_bytes = Framing.of(scope["headers"]).most_bytes(limit)
        admission = service.requests.admission(body_bytes)
        if service.requests.has_room(body_bytes):
            async with admission:
                await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            connection = _Connection(receive)
            await connection.while_open(asyncio.ensure_future(stack.enter_async_context(admission)))
            await self._app(scope, connection.receive, send)


class _Connection:
    """Watches a client that waits for its turn. Keeps what it sends meanwhile: one message of its body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Any] = deque()
        self._coming: asyncio.Future[Any] | None = None

    async def while_open(self, turn: "asyncio.Future[None]") -> None:
        """Return when `turn` is done; it is cancelled when the client leaves first."""
        is_watched = True
        try:
            while not turn.done():
                if is_watched and self._coming is None:
                    self._coming = asyncio.ensure_future(_message(self._receive))
                awaited: set[asyncio.Future[Any]] = {turn} if self._coming is None else {turn, self._coming}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if self._coming is not None and self._coming.done():
                    message, self._coming = self._coming.result(), None
                    self._kept.append(message)
                    is_watched = not message.get("more_body")
            turn.result()
        except BaseException:
            turn.cancel()
            if self._coming is not None:
                self._coming.cancel()
            raise

    async def receive(self) -> Any:  # noqa: ANN401 - ASGI's messages
        """ASGI: what was kept, then what comes."""
        if self._kept:
            return self._kept.popleft()
        if self._coming is not None:
            coming, self._coming = self._coming, None
            return await coming
        return await self._receive()


async def _message(receive: Receive) -> Any:  # noqa: ANN401
    """A part of the body.

    Raises:
        CallerGone: the client left.
    """
    message: Any = await receive()
    if message["type"] != "http.request":
        msg = "the client closed the connection while it waited"
        raise CallerGone(msg)
    return message
