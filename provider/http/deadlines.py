"""Waiting for callers, who get so long for sending what they have to send. One timer for all of them."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from provider.errors import CallerTooSlow, ShuttingDown

T = TypeVar("T")

# A deadline is noticed at most this much too late, or a tenth of itself.
_TICK_SECONDS = 1.0


class BodyDeadlines:
    """Deadlines of callers who are still sending.

    `asyncio.timeout` would do, and takes longer than everything else that happens to a short request whose vector is in
    the cache: a request's body is nearly always there already, and no timer is needed at all.
    """

    def __init__(self) -> None:
        """Nobody waits yet."""
        self._deadlines: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_over = False

    async def wait(self, seconds: float, arrival: Awaitable[T]) -> T:
        """What `arrival` brings, if it does so within `seconds`, and before `end`.

        Raises:
            ShuttingDown: the service was closed meanwhile.
            CallerTooSlow: the time is over.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is None:
            msg = "wait for a caller from a task"
            raise RuntimeError(msg)
        self._deadlines[task] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(min(_TICK_SECONDS, seconds / 10), self._look, loop)
        try:
            return await arrival
        except asyncio.CancelledError as exc:
            if task not in self._late or task.uncancel():
                raise
            if self._is_over:
                raise ShuttingDown from exc
            msg = f"The request did not arrive within {seconds:g} s."
            raise CallerTooSlow(msg) from exc
        finally:
            self._late.discard(task)
            del self._deadlines[task]

    def end(self) -> None:
        """Nobody is waited for any longer."""
        self._is_over = True
        self._give_up_on(list(self._deadlines))

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._give_up_on([task for task, deadline in self._deadlines.items() if deadline <= now])
        left = [deadline - now for task, deadline in self._deadlines.items() if task not in self._late]
        wait = min(_TICK_SECONDS, max(0.001, min(left))) if left else None
        self._timer = None if wait is None else loop.call_later(wait, self._look, loop)

    def _give_up_on(self, tasks: list["asyncio.Task[object]"]) -> None:
        for task in tasks:
            if task not in self._late:
                self._late.add(task)
                task.cancel()
