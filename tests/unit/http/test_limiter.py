"""How many requests are under way at once, and who waits for them in line, before its body is read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from waiting import PATIENCE_SECONDS

from provider.domain import Caller
from provider.engine.hooks import RequestWaited
from provider.errors import Overloaded, ShuttingDown
from provider.http.limiter import MOST_WAITING, RequestLimiter
from provider.settings import QueueSettings
from provider.testing import TickingClock


class Door:
    """A limiter, and requests that come to it, each a task that stays inside until it is told to leave."""

    def __init__(self, **settings: Any) -> None:
        self.events: list[Any] = []
        self.clock = TickingClock()
        # How long those who are let in wait for a model.
        self.seconds_inside = 0.0
        self.limiter = RequestLimiter(
            QueueSettings(**settings), self.events.append, self.clock, seconds_inside=lambda _: self.seconds_inside
        )
        self.inside: list[int] = []
        self._leave: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    async def come(self, *requests: int) -> None:
        for request in requests:
            self._leave[request] = asyncio.Event()
            self.tasks[request] = asyncio.create_task(self._request(request))
        await self._settled()

    async def leave(self, request: int) -> None:
        self._leave[request].set()
        await self.tasks[request]
        await self._settled()

    async def give_up(self, request: int) -> None:
        self.tasks[request].cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.tasks[request]
        await self._settled()

    async def refused(self, request: int) -> Overloaded:
        with pytest.raises(Overloaded) as caught:
            await asyncio.wait_for(self.tasks[request], PATIENCE_SECONDS)
        return caught.value

    async def _request(self, request: int) -> None:
        async with self.limiter.admission(Caller(f"caller {request}")):
            self.inside.append(request)
            await self._leave[request].wait()
            self.inside.remove(request)

    @staticmethod
    async def _settled() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> None:
        self.limiter.drain()
        for leave in self._leave.values():
            leave.set()
        await asyncio.wait_for(asyncio.gather(*self.tasks.values(), return_exceptions=True), PATIENCE_SECONDS)


@asynccontextmanager
async def door(**settings: Any) -> AsyncIterator[Door]:
    opened = Door(**settings)
    try:
        yield opened
    finally:
        await opened.close()


def outcomes(events: Sequence[RequestWaited]) -> list[str]:
    return [event.outcome for event in events]


async def test_requests_that_do_not_fit_wait_and_come_in_in_turn() -> None:
    async with door(max_requests=2) as at:
        await at.come(1, 2, 3, 4)
        assert (at.inside, at.limiter.active, at.limiter.waiting) == ([1, 2], 2, 2)
        at.clock.advance(3)
        await at.leave(2)
        assert at.inside == [1, 3]
        await at.leave(1)
        assert at.inside == [3, 4]
        assert [(event.outcome, event.seconds) for event in at.events] == [("admitted", 3)] * 2
        assert [event.caller.name for event in at.events] == ["caller 3", "caller 4"]


async def test_where_nobody_may_wait_requests_are_refused_at_once() -> None:
    async with door(max_requests=1, max_wait_seconds=0) as at:
        await at.come(1, 2)
        refused = await at.refused(2)
        assert "1 requests are under way and 0 wait. Please try again in 1s." in refused.message
        assert (refused.retry_after_seconds, at.events) == (1, [])


async def test_a_request_that_would_wait_for_too_long_is_refused_at_once_and_told_for_how_long() -> None:
    async with door(max_requests=1, max_wait_seconds=25) as at:
        await at.come(1)
        at.clock.advance(10)
        await at.leave(1)
        # Those under way take 10 s each: the second waits for 10, the third for 20, and the fourth would for 30.
        await at.come(1, 2, 3, 4)
        assert (await at.refused(4)).retry_after_seconds == 30
        assert (at.inside, at.limiter.waiting) == ([1], 2)


async def test_the_wait_for_a_model_counts_too() -> None:
    async with door(max_requests=1, max_wait_seconds=10) as at:
        await at.come(1)
        at.clock.advance(3)
        await at.leave(1)
        at.seconds_inside = 6
        await at.come(1, 2, 3)
        assert (await at.refused(3)).retry_after_seconds == 12
        assert (at.inside, at.limiter.waiting) == ([1], 1)


async def test_a_turn_that_comes_too_late_for_the_model_is_a_refusal_and_the_next_moves_up() -> None:
    async with door(max_requests=1, max_wait_seconds=10) as at:
        await at.come(1, 2)
        at.clock.advance(5)
        await at.come(3)
        at.seconds_inside = 6
        await at.leave(1)
        assert (await at.refused(2)).retry_after_seconds == 6
        assert (at.inside, at.limiter.active, at.limiter.waiting) == ([3], 1, 0)
        assert outcomes(at.events) == ["refused", "admitted"]


async def test_only_so_many_requests_wait() -> None:
    async with door(max_requests=1) as at:
        await at.come(*range(MOST_WAITING + 2))
        await at.refused(MOST_WAITING + 1)
        assert (at.limiter.active, at.limiter.waiting) == (1, MOST_WAITING)


async def test_a_request_that_has_waited_for_too_long_is_refused_and_the_next_moves_up() -> None:
    async with door(max_requests=1, max_wait_seconds=0.05) as at:
        await at.come(1, 2, 3)
        assert (await at.refused(2)).retry_after_seconds >= 1
        assert at.limiter.waiting <= 1
        assert outcomes(at.events)[0] == "refused"


async def test_a_caller_who_leaves_while_waiting_lets_the_next_one_up() -> None:
    async with door(max_requests=1) as at:
        await at.come(1, 2, 3)
        await at.give_up(2)
        await at.leave(1)
        assert (at.inside, at.limiter.waiting) == ([3], 0)
        assert outcomes(at.events) == ["left", "admitted"]


async def test_a_caller_who_leaves_when_its_turn_comes_gives_its_place_back() -> None:
    async with door(max_requests=1) as at:
        await at.come(1, 2, 3)
        at._leave[1].set()
        await at.tasks[1]
        # Its turn has come, and it does not know yet.
        assert (at.inside, at.limiter.active) == ([], 1)
        await at.give_up(2)
        assert at.inside == [3]


async def test_the_end_of_the_service_is_told_at_once_to_those_who_wait() -> None:
    async with door(max_requests=1) as at:
        await at.come(1, 2, 3)
        at.limiter.drain()
        for request in (2, 3):
            with pytest.raises(ShuttingDown):
                await asyncio.wait_for(at.tasks[request], PATIENCE_SECONDS)
        await at.come(4)
        with pytest.raises(ShuttingDown):
            await at.tasks[4]
        idle = asyncio.create_task(at.limiter.idle())
        await asyncio.sleep(0)
        assert not idle.done()
        await at.leave(1)
        await asyncio.wait_for(idle, PATIENCE_SECONDS)
