"""Lanes do other work while nothing waits: requests go first, and what hangs is given up."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_SECONDS, until, until_set

from provider.domain import Features
from provider.engine import idle as idle_module
from provider.engine.lanes import Lanes
from provider.engine.limits import BatchLimits
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.errors import ModelStalled, ShuttingDown
from provider.testing import FakeBackend, TickingClock

LIMITS = BatchLimits(max_rows=1, max_tokens=8)


@asynccontextmanager
async def opened(backend: FakeBackend, count: int = 2, **more: Any) -> AsyncIterator[Lanes]:
    scheduler = Scheduler(LIMITS, max_tokens=1000, max_wait_seconds=100, lanes=count, **more)
    lanes = Lanes(backend, scheduler, check=lambda *_: None, count=count, name="m", on_batch=lambda _: None, **more)
    lanes.start()
    try:
        yield lanes
    finally:
        backend.gate.set()
        await lanes.close()


def submit(lanes: Lanes) -> Ticket:
    row = Row(Features(np.array([3], np.int32)))
    ticket = Ticket([row])
    lanes.submit([row])
    return ticket


async def idle(lanes: Lanes, *work: Callable[[], object], alone: bool, **more: Any) -> float:
    return await asyncio.wait_for(asyncio.to_thread(lanes.run_idle, work, alone=alone, **more), PATIENCE_SECONDS)


async def test_work_runs_side_by_side_on_the_threads_of_lanes_and_its_time_is_told() -> None:
    both, names = threading.Barrier(2), []

    def work() -> None:
        both.wait(PATIENCE_SECONDS)
        names.append(threading.current_thread().name)

    async with opened(FakeBackend()) as lanes:
        assert await idle(lanes, work, work, alone=True) > 0
    assert sorted(names) == ["m lane 0", "m lane 1"]


async def test_while_work_is_alone_rows_wait_and_else_the_other_lane_runs_them() -> None:
    go, begun = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(PATIENCE_SECONDS)

    async with opened(backend := FakeBackend()) as lanes:
        beside = asyncio.create_task(idle(lanes, work, alone=False))
        await until_set(begun)
        await submit(lanes).wait()
        assert len(backend.batches) == 1
        go.set()
        await beside
        go.clear()
        begun.clear()
        alone = asyncio.create_task(idle(lanes, work, alone=True))
        await until_set(begun)
        ticket = submit(lanes)
        assert (lanes.waiting_rows, len(backend.batches)) == (1, 1)
        go.set()
        await alone
        await ticket.wait()
        assert len(backend.batches) == 2


async def test_a_row_wakes_the_only_lane_while_work_waits_for_more_lanes_than_there_are() -> None:
    async with opened(FakeBackend(), count=1) as lanes:
        await until(lambda: len(lanes._idle._waiting) == 1)
        # Not alone: it needs two lanes that wait, and one of them is given work all the time.
        waiting = [asyncio.create_task(idle(lanes, lambda: None, alone=True)) for _ in range(3)]
        for _ in range(50):
            await asyncio.wait_for(submit(lanes).wait(), PATIENCE_SECONDS)
        await asyncio.gather(*waiting)


async def test_work_begins_when_nothing_waits_and_alone_when_nothing_runs() -> None:
    order: list[str] = []
    async with opened(backend := FakeBackend()) as lanes:
        backend.gate.clear()
        running = submit(lanes)
        await until_set(backend.started)
        alone = asyncio.create_task(idle(lanes, lambda: order.append("work"), alone=True))
        more = [submit(lanes) for _ in range(5)]
        backend.before_run = lambda _: order.append("row")
        backend.gate.set()
        for ticket in (running, *more):
            await ticket.wait()
        await alone
    assert order == ["row"] * 6 + ["work"]


async def test_work_that_drains_comes_before_rows_that_wait_and_beside_a_long_pass_does_not_hold_them_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    async with opened(backend := FakeBackend()) as lanes:
        backend.gate.clear()
        running = [submit(lanes) for _ in range(2)]
        await until(lambda: lanes.stalled(-1) == 2)
        draining = asyncio.create_task(idle(lanes, lambda: order.append("work"), alone=True, drains=True))
        more = [submit(lanes) for _ in range(5)]
        await until(lambda: lanes._idle.drains)
        backend.before_run = lambda _: order.append("row")
        backend.gate.set()
        for ticket in (*running, *more):
            await ticket.wait()
        await draining
        assert order == ["row"] * 2 + ["work"] + ["row"] * 5

        monkeypatch.setattr(idle_module, "_DRAIN_SECONDS", 0.2)
        backend.gate.clear()
        backend.started.clear()
        hung = submit(lanes)
        await until_set(backend.started)
        gate, backend.gate = backend.gate, threading.Event()
        backend.gate.set()
        draining = asyncio.create_task(idle(lanes, lambda: order.append("late"), alone=True, drains=True))
        await submit(lanes).wait()
        assert order[-1] == "row"
        gate.set()
        await hung.wait()
        await draining
        assert order[-1] == "late"


async def test_before_and_after_are_called_while_no_pass_runs() -> None:
    backend, seen = FakeBackend(), []
    running = threading.Semaphore(0)

    def note(word: str) -> Callable[[], None]:
        return lambda: seen.append((word, running._value))

    def work() -> None:
        running.release()
        seen.append(("work", 0))
        running.acquire()

    async with opened(backend) as lanes:
        await idle(lanes, work, work, alone=True, before=note("before"), after=note("after"))
        await submit(lanes).wait()
    assert [word for word, _ in seen] == ["before", "work", "work", "after"]
    assert (seen[0][1], seen[-1][1]) == (0, 0)


async def test_what_work_raises_reaches_its_caller_and_the_lane_serves_on() -> None:
    def fail() -> None:
        msg = "no"
        raise ValueError(msg)

    async with opened(FakeBackend(), count=1) as lanes:
        with pytest.raises(ValueError, match="no"):
            await idle(lanes, fail, alone=True)
        await submit(lanes).wait()


@pytest.mark.parametrize("alone", [True, False])
async def test_work_that_hangs_is_given_up_and_the_other_lane_serves(alone: bool) -> None:
    clock, go, begun = TickingClock(), threading.Event(), threading.Event()
    restored = threading.Event()

    def hang() -> None:
        begun.set()
        assert go.wait(PATIENCE_SECONDS)

    async with opened(FakeBackend(), clock=clock) as lanes:
        work = asyncio.create_task(idle(lanes, hang, alone=alone, after=restored.set))
        await until_set(begun)
        clock.advance(8)
        assert not lanes.fail_stalled(7)
        with pytest.raises(ModelStalled):
            await work
        await submit(lanes).wait()
        assert (lanes.stalled(7), restored.is_set()) == (1, False)
        go.set()
        await until_set(restored)
        await until(lambda: lanes.stalled(7) == 0)


async def test_where_work_hangs_on_the_only_lane_none_is_left() -> None:
    clock, go, begun = TickingClock(), threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        assert go.wait(PATIENCE_SECONDS)

    async with opened(FakeBackend(), count=1, clock=clock) as lanes:
        work = asyncio.create_task(idle(lanes, hang, alone=True))
        await until_set(begun)
        ticket = submit(lanes)
        clock.advance(8)
        assert lanes.fail_stalled(7)
        for each in (work, asyncio.create_task(ticket.wait())):
            with pytest.raises(ModelStalled):
                await asyncio.wait_for(each, PATIENCE_SECONDS)
        go.set()


async def test_lanes_and_batches_change_between_passes() -> None:
    def threads() -> int:
        return sum(each.name.startswith("m lane") for each in threading.enumerate())

    wide = BatchLimits(max_rows=1, max_tokens=99)
    async with opened(backend := FakeBackend()) as lanes:
        for count, limits in ((3, wide), (1, LIMITS), (2, wide)):
            await idle(lanes, lambda count=count, limits=limits: lanes.resize(count, limits), alone=True)
            await until(lambda count=count: threads() == count)
            assert (lanes.count, lanes.batch_tokens) == (count, limits.max_tokens)
            backend.gate.clear()
            # One is in a pass for each lane; the others wait.
            tickets = [submit(lanes) for _ in range(5)]
            await until(lambda count=count: lanes.stalled(-1) == count)
            backend.gate.set()
            for ticket in tickets:
                await ticket.wait()


async def test_more_lanes_than_serve_are_started_for_work_and_end_with_the_next_change() -> None:
    both = threading.Barrier(4)
    async with opened(FakeBackend(), count=1) as lanes:
        await idle(lanes, *[lambda: both.wait(PATIENCE_SECONDS)] * 4, alone=True)
        await idle(lanes, lambda: lanes.resize(1, LIMITS), alone=True)
        await until(lambda: sum(each.name.startswith("m lane") for each in threading.enumerate()) == 1)


async def test_work_that_waits_when_the_lanes_close_is_told_so() -> None:
    async with opened(backend := FakeBackend(), count=1) as lanes:
        backend.gate.clear()
        ticket = submit(lanes)
        await until_set(backend.started)
        waiting = asyncio.create_task(idle(lanes, lambda: None, alone=True))
        await asyncio.sleep(0)
        closing = asyncio.create_task(lanes.close())
        with pytest.raises(ShuttingDown):
            await waiting
        backend.gate.set()
        await closing
        await ticket.wait()
        with pytest.raises(ShuttingDown):
            await idle(lanes, lambda: None, alone=True)
