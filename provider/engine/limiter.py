"""How many requests, and bytes of their bodies, are under way at once; further ones wait in line, their body unread."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from attrs import define

from provider.engine.hooks import Hook, RequestWaited
from provider.errors import MOST_RETRY_SECONDS, Overloaded, ShuttingDown
from provider.settings import QueueSettings

MOST_WAITING = 1024
"""Requests in line. Each holds a connection, and the 64 KiB of its body that the server reads ahead."""

# The share of a new measurement in the mean time that a request is under way.
_NEWEST = 0.1


@define(eq=False)
class _UnreadRequest:
    """A request in line, its body unread; its turn has come when `turn` is done."""

    body_bytes: int
    turn: "asyncio.Future[None]"


class RequestLimiter:
    """Lets requests in, first come, first served. Used on the event loop's thread only.

    Attributes:
        active: requests under way.
        is_draining: whether no more are let in.
    """

    def __init__(self, settings: QueueSettings, hooks: Hook, clock: Callable[[], float] = time.monotonic) -> None:
        """No request is under way yet."""
        self.active, self.is_draining = 0, False
        self._settings, self._hooks, self._clock = settings, hooks, clock
        self._body_bytes = 0
        self._mean_seconds = 0.0
        self._line: deque[_UnreadRequest] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    def has_room(self, body_bytes: int) -> bool:
        """Whether `admission` would let a request in at once."""
        return not self._line and self._fits(body_bytes)

    @asynccontextmanager
    async def admission(self, body_bytes: int) -> AsyncIterator[None]:
        """Around a request, from before it is read until its answer is written. `idle` waits for those inside.

        Args:
            body_bytes: how large its body may turn out. A request is let in whatever its size if it is the only one.

        Raises:
            ShuttingDown: no more requests are taken.
            Overloaded: too many, or too many bytes, are under way, and will be for longer than a request may wait.
        """
        if self.is_draining:
            raise _shutting_down()
        if self.has_room(body_bytes):
            self._enter(body_bytes)
        else:
            await self._wait_for_turn(body_bytes)
        started = self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - started
            self._mean_seconds += (_NEWEST if self._mean_seconds else 1.0) * (seconds - self._mean_seconds)
            self._leave(body_bytes)

    def drain(self) -> None:
        """Admit no more requests: those in line fail at once, those under way go on."""
        self.is_draining = True
        while self._line:
            waiting = self._line.popleft()
            if not waiting.turn.done():
                waiting.turn.set_exception(_shutting_down())

    async def idle(self) -> None:
        """Return when no admitted request is under way."""
        await self._idle.wait()

    async def _wait_for_turn(self, body_bytes: int) -> None:
        """Wait in line until the request is admitted."""
        seconds = self._seconds_until_room(body_bytes)
        most = self._settings.max_wait_seconds
        if seconds > most or not most or len(self._line) >= MOST_WAITING:
            raise self._overloaded(seconds)
        waiting = _UnreadRequest(body_bytes, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        started = self._clock()
        outcome: Literal["admitted", "refused", "left"] = "left"
        try:
            # `wait` neither cancels nor raises, so that a turn which comes at the last moment is not lost.
            await asyncio.wait([waiting.turn], timeout=most)
            if not waiting.turn.done():
                outcome = "refused"
                raise self._overloaded(self._seconds_until_room(body_bytes))
            outcome = "refused" if waiting.turn.exception() else "admitted"
            waiting.turn.result()
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.exception():
                self._leave(body_bytes)
            raise
        finally:
            if waiting in self._line:
                self._line.remove(waiting)
                self._let_in()
            self._hooks(RequestWaited(self._clock() - started, outcome))

    def _fits(self, body_bytes: int) -> bool:
        settings = self._settings
        total = self._body_bytes + body_bytes
        return not self.active or (self.active < settings.max_requests and total <= settings.max_request_bytes)

    def _enter(self, body_bytes: int) -> None:
        self.active += 1
        self._body_bytes += body_bytes
        self._idle.clear()

    def _leave(self, body_bytes: int) -> None:
        self.active -= 1
        self._body_bytes -= body_bytes
        self._let_in()
        if not self.active:
            self._idle.set()

    def _let_in(self) -> None:
        while self._line and self._fits(self._line[0].body_bytes):
            waiting = self._line.popleft()
            if not waiting.turn.done():
                self._enter(waiting.body_bytes)
                waiting.turn.set_result(None)

    def _seconds_until_room(self, body_bytes: int) -> float:
        """An estimate: requests under way end at an even pace."""
        settings, before = self._settings, sum(waiting.body_bytes for waiting in self._line)
        requests = self.active + len(self._line) + 1 - settings.max_requests
        excess = self._body_bytes + before + body_bytes - settings.max_request_bytes
        share = max(requests / max(1, self.active), excess / max(1, self._body_bytes), 0.0)
        return share * self._mean_seconds

    def _overloaded(self, seconds: float) -> Overloaded:
        retry = min(MOST_RETRY_SECONDS, max(1, math.ceil(seconds)))
        msg = (
            f"The service is overloaded: {self.active} requests with up to {self._body_bytes} bytes are under way and "
            f"{len(self._line)} wait. Please try again in {retry}s."
        )
        return Overloaded(msg, retry_after_seconds=retry)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The service is shutting down. Please try again later.", retry_after_seconds=5)
