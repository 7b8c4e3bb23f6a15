"""Admission to the routes that embed: before the body is read, until the last byte of the answer is sent."""

import asyncio
from collections import deque
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from litestar.types import ASGIApp, Receive, Scope, Send

from provider.engine.engine import Engine
from provider.errors import CallerGone
from provider.http.auth import caller_of
from provider.http.body import Framing
from provider.http.budget import FREE_BYTES, Connection, Share
from provider.http.lifecycle import Lifecycle
from provider.http.scheduling import in_time, read_wishes


class Admission:
    """ASGI middleware of a route.

    A handler ends when its answer begins to be sent; a client that reads slowly, or not at all, keeps the answer in
    memory for longer than that.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; raises as `RequestLimiter.admission`.

        Raises:
            CallerGone: the client left before its turn came.
            DeadlineExceeded: the request's own deadline came before that.
        """
        # By subscript: a state's attributes are found by an error, which takes several times as long.
        lifecycle: Lifecycle = scope["litestar_app"].state["lifecycle"]
        state = scope["state"]
        framing = state["framing"] = Framing.of(scope["headers"])
        if framing.priority or framing.timeout_ms:
            read_wishes(scope, framing)
        entering = lifecycle.requests.admission(caller_of(scope))
        if not lifecycle.requests.has_room:
            entering = waiting = _WaitingClient(entering, receive, state.get("deadline"))
            receive = waiting.receive
        async with entering:
            # Bodies of this size are read ahead. A text has no more tokens than bytes.
            size = framing.announced if lifecycle.checks_unread else None
            if size is not None and size <= FREE_BYTES and not framing.coding:
                _check_room(scope, size)
            share = state["share"] = Share(lifecycle.budget)
            try:
                await self._app(scope, receive, send)
                connection: Connection | None = state.get("connection")
                if connection is not None and connection.unwritten_bytes:
                    await share.until_read(connection)
            finally:
                if share.held:
                    share.release()


def _check_room(scope: Scope, size: int) -> None:
    """Refuse a request that runs a model, and for which there is no room whatever its body says.

    Raises:
        Overloaded: so it is.
    """
    if scope["route_handler"].opt.get("tasks"):
        engine: Engine = scope["litestar_app"].state["service"]
        engine.check_room(size, caller_of(scope))


class _WaitingClient(AbstractAsyncContextManager[None]):
    """Watches a client that waits for its turn. Keeps what it sends meanwhile: one message of its body."""

    def __init__(self, turn: AbstractAsyncContextManager[None], receive: Receive, deadline: float | None) -> None:
        self._turn, self._receive, self._deadline = turn, receive, deadline
        self._entered = AsyncExitStack()
        self._kept: deque[Any] = deque()
        self._coming: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> None:
        turn = self._entered.enter_async_context(self._turn)
        if self._deadline is not None:
            turn = in_time(self._deadline, turn)
        try:
            await self._while_open(asyncio.ensure_future(turn))
        except BaseException:
            await self._entered.aclose()
            raise

    async def __aexit__(self, *_: object) -> None:
        if self._coming is not None:
            self._coming.cancel()
        await self._entered.aclose()

    async def _while_open(self, turn: "asyncio.Future[None]") -> None:
        """Return when `turn` is done; it is cancelled when the client leaves first."""
        is_watched = True
        try:
            while not turn.done():
                if is_watched and self._coming is None:
                    self._coming = asyncio.ensure_future(self._receive())
                awaited: set[asyncio.Future[Any]] = {turn} if self._coming is None else {turn, self._coming}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if self._coming is not None and self._coming.done():
                    message, self._coming = self._coming.result(), None
                    self._kept.append(_part_of_body(message))
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


def _part_of_body(message: Any) -> Any:  # noqa: ANN401
    """The message.

    Raises:
        CallerGone: it says that the client left.
    """
    if message["type"] != "http.request":
        msg = "the client closed the connection while it waited"
        raise CallerGone(msg)
    return message
