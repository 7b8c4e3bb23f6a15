"""The line before a model's queue: who waits for room, for how long, and who does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from provider.engine.batcher import Batcher, BatchLimits
from provider.engine.lanes import Lanes
from provider.engine.line import Line
from provider.engine.rows import Row, Ticket
from provider.errors import NotAvailable, Overloaded, ShuttingDown
from provider.testing import FakeBackend


class Model:
    """Lanes on a fake backend whose first forward pass is held until `go`."""

    def __init__(self, *, queue: int, wait: float, rate: float) -> None:
        self.backend = FakeBackend()
        self.backend.gate.clear()
        self.events: list[Any] = []
        line = Line(Batcher(BatchLimits(32, 64)), max_queue_tokens=queue, max_wait_seconds=wait)
        self.lanes = Lanes(
            self.backend, line, dimension=8, count=1, name="m", on_batch=lambda _: None, on_waited=self.events.append
        )
        self.lanes._tokens_per_second = rate
        self.order: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def ask(self, name: str, tokens: int, *, rows: int = 1) -> "asyncio.Task[None]":
        """A request of `rows` with so many tokens each; `order` gets its name when it has its vectors."""
        asked = [Row(np.full(tokens, 7, np.int32)) for _ in range(rows)]
        ticket = Ticket(asked)
        self.lanes.submit(asked)

        async def wait() -> None:
            await ticket.wait()
            self.order.append(name)

        self.tasks.append(asyncio.create_task(wait()))
        return self.tasks[-1]

    async def hold(self) -> "asyncio.Task[None]":
        held = self.ask("held", 1)
        assert await asyncio.to_thread(self.backend.started.wait, 10)
        return held

    def go(self) -> None:
        self.backend.gate.set()


@asynccontextmanager
async def model(*, queue: int = 100, wait: float = 30, rate: float = 0.0) -> AsyncIterator[Model]:
    made = Model(queue=queue, wait=wait, rate=rate)
    made.lanes.start()
    try:
        yield made
    finally:
        made.go()
        await made.lanes.close()
        await asyncio.wait_for(asyncio.gather(*made.tasks, return_exceptions=True), 10)


async def refused(task: "asyncio.Task[None]", kind: type[NotAvailable] = Overloaded) -> NotAvailable:
    with pytest.raises(kind) as caught:
        await asyncio.wait_for(task, 10)
    return caught.value


async def left(task: "asyncio.Task[None]") -> None:
    await asyncio.sleep(0)  # it waits by now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_requests_that_do_not_fit_wait_in_turn_and_all_are_served() -> None:
    async with model() as m:
        tasks = [await m.hold(), *(m.ask(str(i), 60) for i in range(5)), m.ask("small", 4)]
        assert (m.lanes.waiting_tokens, m.lanes.requests_in_line) == (60, 5)
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert m.order == ["held", "0", "1", "2", "3", "4", "small"]
        assert [event.outcome for event in m.events] == ["admitted"] * 5
        assert (m.lanes.waiting_tokens, m.lanes.requests_in_line) == (0, 0)


async def test_small_requests_overtake_a_large_one_until_they_are_a_thirty_second_of_the_queue() -> None:
    async with model(queue=3200) as m:
        await m.hold()
        m.ask("queued", 2000)
        m.ask("large", 2000)
        for i in range(10):
            m.ask(f"small {i}", 10)
        assert (m.lanes.waiting_tokens, m.lanes.requests_in_line) == (2100, 1)
        m.ask("behind", 10)
        m.ask("too large to overtake", 200)
        assert (m.lanes.waiting_tokens, m.lanes.requests_in_line) == (2100, 3)
        m.go()
        await asyncio.wait_for(asyncio.gather(*m.tasks), 10)
        m.ask("as usual", 10)
        assert m.lanes.requests_in_line == 0


async def test_a_request_larger_than_the_queue_waits_until_that_is_empty() -> None:
    async with model() as m:
        tasks = [await m.hold(), m.ask("first", 60), m.ask("huge", 500), m.ask("last", 10)]
        assert m.lanes.requests_in_line == 2
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert m.order == ["held", "first", "huge", "last"]


async def test_a_request_that_would_wait_for_too_long_is_refused_at_once_and_told_for_how_long() -> None:
    async with model(wait=12, rate=10.0) as m:
        await m.hold()
        m.ask("queued", 100)
        m.ask("waits for 9 s", 90)
        with pytest.raises(Overloaded, match=r"190 tokens wait, this request has 40 .* holds 100\..* in 13s") as caught:
            m.ask("would wait for 13 s", 40)
        assert caught.value.retry_after_seconds == 13
        assert m.lanes.requests_in_line == 1


async def test_small_batches_do_not_make_a_fast_model_look_too_slow_to_wait_for() -> None:
    async with model(queue=600, wait=1) as m:
        m.backend.before_embed = lambda _: time.sleep(0.01)
        m.go()
        await asyncio.wait_for(m.ask("64 rows", 8, rows=64), 10)
        for i in range(30):
            await asyncio.wait_for(m.ask(f"alone {i}", 1), 10)
        m.backend.gate.clear()
        m.backend.started.clear()
        tasks = [await m.hold(), m.ask("queued", 8, rows=64), m.ask("waits", 8, rows=64)]
        assert m.lanes.requests_in_line == 1
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_no_wait_is_said_to_be_longer_than_clients_believe() -> None:
    async with model(wait=0, rate=0.1) as m:
        await m.hold()
        m.ask("queued", 100)
        with pytest.raises(Overloaded, match="in 59s") as caught:
            m.ask("too much", 100)
        assert caught.value.retry_after_seconds == 59


async def test_where_nobody_may_wait_a_request_is_refused_at_once() -> None:
    async with model(wait=0) as m:
        await m.hold()
        m.ask("queued", 60)
        with pytest.raises(Overloaded):
            m.ask("too much", 60)
        m.ask("fits", 40)
        assert m.events == []


async def test_a_request_that_has_waited_for_too_long_is_refused_and_the_next_moves_up() -> None:
    async with model(wait=0.05) as m:
        tasks = [await m.hold(), m.ask("queued", 60)]
        late = m.ask("late", 60)
        small = m.ask("small", 30)
        assert (await refused(late)).retry_after_seconds >= 1
        assert m.events[0].outcome == "refused"
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        await asyncio.wait([small], timeout=10)
        assert m.lanes.requests_in_line == 0


async def test_a_caller_who_leaves_while_waiting_costs_nothing() -> None:
    async with model(wait=30, rate=10) as m:
        tasks = [await m.hold(), m.ask("queued", 60)]
        await left(m.ask("gone", 100))
        assert m.lanes.requests_in_line == 0
        # The tokens of those who left are not counted, and they hold no place.
        tasks.append(m.ask("fits", 40))
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert m.order == ["held", "queued", "fits"]
        assert [event.outcome for event in m.events] == ["left"]
        assert sum(batch.tokens for batch in m.backend.batches) == 101


async def test_callers_who_leave_the_queue_make_room_for_the_line() -> None:
    async with model() as m:
        held, queued, waits = await m.hold(), m.ask("queued", 90), m.ask("waits", 90)
        await left(queued)
        assert m.ask("behind", 5)
        assert (m.lanes.waiting_tokens, m.lanes.requests_in_line) == (95, 0)
        m.go()
        await asyncio.wait_for(asyncio.gather(held, waits), 10)
        assert [event.outcome for event in m.events] == ["admitted"]


async def test_the_end_of_the_service_is_told_at_once_to_those_in_line_and_not_to_those_in_the_queue() -> None:
    async with model() as m:
        tasks = [await m.hold(), m.ask("queued", 90)]
        waits = m.ask("waits", 90)
        m.lanes.drain()
        await refused(waits, ShuttingDown)
        await refused(m.ask("comes later", 90), ShuttingDown)
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_closing_ends_every_wait() -> None:
    async with model() as m:
        await m.hold()
        tasks = [m.ask("queued", 90), m.ask("waits", 90)]
        closing = asyncio.create_task(m.lanes.close())
        for task in tasks:
            await refused(task, ShuttingDown)
        m.go()
        assert await closing


@pytest.mark.parametrize("count", [2, 3])
async def test_equal_inputs_share_a_place_in_line(count: int) -> None:
    async with model() as m:
        tasks = [await m.hold(), m.ask("queued", 90)]
        row = Row(np.full(20, 7, np.int32))
        tickets = [Ticket([row]) for _ in range(count)]
        m.lanes.submit([row])
        waits = [asyncio.create_task(ticket.wait()) for ticket in tickets]
        await left(waits[0])
        assert m.lanes.requests_in_line == 1
        m.go()
        await asyncio.wait_for(asyncio.gather(*tasks, *waits[1:]), 10)
