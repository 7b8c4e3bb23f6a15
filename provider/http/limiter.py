"""How many requests are under way at once; further ones wait in line, their body unread."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Literal

from provider.domain import ANONYMOUS, Caller
from provider.engine.hooks import Hook, RequestWaited
from provider.errors import ShuttingDown, TooManyRequests
from provider.http.pace import Pace, retry_seconds
from provider.settings import QueueSettings

MOST_WAITING = 1024
"""Requests in line. Each holds a connection, and the 64 KiB of its body that the server reads ahead."""


class _Admission:
    """One request's. A generator as a context manager would take several times as long."""

    def __init__(self, limiter: "RequestLimiter", caller: Caller) -> None:
        self._limiter, self._caller = limiter, caller
        self._started = 0.0

    async def __aenter__(self) -> None:
        self._started = await self._limiter.enter(self._caller)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.leave(self._started)


class RequestLimiter:
    """Lets requests in, first come, first served. Used on the event loop's thread only.

    Attributes:
        active: requests under way.
        is_draining: whether no more are let in.
    """

    def __init__(
        self,
        settings: QueueSettings,
        hooks: Hook,
        clock: Callable[[], float] = time.monotonic,
        *,
        seconds_inside: Callable[[Caller], float] = lambda _: 0.0,
    ) -> None:
        """No request is under way yet.

        Args:
            settings: how many may be under way, and how long others may wait.
            hooks: hear of those that waited.
            clock: seconds, monotonic.
            seconds_inside: how long a request of a caller will wait for a model once it is let in, at least.
        """
        self.active, self.is_draining = 0, False
        self._settings, self._hooks, self._clock = settings, hooks, clock
        self._seconds_inside = seconds_inside
        self._pace = Pace()
        # For each request in line, what is done when its turn has come.
        self._line: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    @property
    def has_room(self) -> bool:
        """Whether `admission` would let a request in at once."""
        return not self._line and self.active < self._settings.max_requests

    def admission(self, caller: Caller = ANONYMOUS) -> AbstractAsyncContextManager[None]:
        """Around a request, from before it is read until its answer is written. `idle` waits for those inside.

        Args:
            caller: who sent it; listeners are told.

        Raises:
            ShuttingDown: no more requests are taken.
            TooManyRequests: too many are under way, and will be for longer than a request may wait.
        """
        return _Admission(self, caller)

    def drain(self) -> None:
        """Admit no more requests: those in line fail at once, those under way go on."""
        self.is_draining = True
        while self._line:
            waiting = self._line.popleft()
            if not waiting.done():
                waiting.set_exception(ShuttingDown())

    async def idle(self) -> None:
        """Return when no admitted request is under way."""
        await self._idle.wait()

    async def enter(self, caller: Caller) -> float:
        """See `admission`; the time at which the request was let in."""
        if self.is_draining:
            raise ShuttingDown
        if self.has_room:
            self._add()
        else:
            await self._wait_for_turn(caller)
        return self._clock()

    def leave(self, started: float) -> None:
        """The end of a request that was let in at `started`."""
        self._pace.ended(self._clock() - started)
        self._remove()

    async def _wait_for_turn(self, caller: Caller) -> None:
        """Wait in line until the request is admitted."""
        seconds = self._seconds_until_room() + self._seconds_inside(caller)
        most = self._settings.max_wait_seconds
        if seconds > most or not most or len(self._line) >= MOST_WAITING:
            raise self._overloaded(seconds)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        started = self._clock()
        outcome: Literal["admitted", "refused", "left"] = "left"
        try:
            # `wait` neither cancels nor raises, so that a turn which comes at the last moment is not lost.
            await asyncio.wait([turn], timeout=most)
            if not turn.done():
                outcome = "refused"
                raise self._overloaded(self._seconds_until_room())
            outcome = "refused" if turn.exception() else "admitted"
            turn.result()
            inside = self._seconds_inside(caller)
            if self._clock() - started + inside > most:
                outcome = "refused"
                self._remove()
                raise self._overloaded(inside)
        except asyncio.CancelledError:
            if turn.done() and not turn.exception():
                self._remove()
            raise
        finally:
            if turn in self._line:
                self._line.remove(turn)
            self._hooks(RequestWaited(self._clock() - started, outcome, caller))

    def _add(self) -> None:
        if not self.active:
            self._idle.clear()
        self.active += 1

    def _remove(self) -> None:
        self.active -= 1
        while self._line and self.active < self._settings.max_requests:
            turn = self._line.popleft()
            if not turn.done():
                self._add()
                turn.set_result(None)
        if not self.active:
            self._idle.set()

    def _seconds_until_room(self) -> float:
        excess = self.active + len(self._line) + 1 - self._settings.max_requests
        return self._pace.seconds_until(excess, self.active)

    def _overloaded(self, seconds: float) -> TooManyRequests:
        retry = retry_seconds(seconds)
        msg = (
            f"The service is overloaded: {self.active} requests are under way and {len(self._line)} wait. "
            f"Please try again in {retry}s."
        )
        return TooManyRequests(msg, retry_after_seconds=retry)
