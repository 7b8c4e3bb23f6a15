"""What is let in, in which order it runs, and how long that is expected to take. By a clock that the test moves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from waiting import until

from provider.domain import ANONYMOUS, Caller, Features
from provider.engine.lanes import Lanes
from provider.engine.limits import BatchLimits
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.engine.throughput import Throughput
from provider.errors import EmbeddingFailed, Overloaded, ShuttingDown
from provider.testing import FakeBackend, TickingClock

INTERACTIVE, BULK = Caller("i", tier="interactive"), Caller("b", tier="bulk")


class _Waiter:
    """Stands in for a request, so that its rows count as wanted."""

    def row_settled(self, row: Row) -> None: ...


def rows_of(count: int, tokens: int, caller: Caller = ANONYMOUS) -> list[Row]:
    rows = [Row(Features(np.full(tokens, 7, np.int32)), caller=caller) for _ in range(count)]
    for row in rows:
        row._tickets.append(_Waiter())  # type: ignore[arg-type]
    return rows


class Model:
    """A scheduler with one lane that runs `rate` tokens a second of the clock's time."""

    def __init__(self, *, rate: float = 1_000, queue: int = 10**9, wait: float = 10, known: bool = True) -> None:
        self.clock, self.rate = TickingClock(), rate
        self.scheduler = Scheduler(BatchLimits(64, 64), max_tokens=queue, max_wait_seconds=wait, clock=self.clock)
        self.refused: list[Overloaded] = []
        if known:
            self.add(2, 64)
            self.run(2)

    def add(self, count: int, tokens: int, caller: Caller = ANONYMOUS) -> list[Row]:
        """A request; no rows if it is refused."""
        rows = rows_of(count, tokens, caller)
        try:
            self.scheduler.add(rows)
        except Overloaded as exc:
            self.refused.append(exc)
            return []
        return rows

    def run(self, passes: int = 1) -> list[Row]:
        """So many passes, one behind the other; the rows that ran."""
        ran: list[Row] = []
        for _ in range(passes):
            rows = self.scheduler.take()
            if not rows:
                break
            tokens = sum(row.tokens for row in rows)
            self.scheduler.throughput.began(0, tokens)
            is_full = self.scheduler.rows > 0
            self.clock.advance(tokens / self.rate)
            self.scheduler.throughput.ended(0, is_full=is_full)
            ran += rows
        return ran


def test_what_would_not_be_answered_in_time_is_refused_and_told_how_long_it_would_take() -> None:
    model = Model(rate=1_000, wait=10)
    added = [model.add(8, 15) for _ in range(100)]
    assert sum(map(bool, added)) == 75  # 75 x 120 tokens take 9 s, a tenth less than is allowed
    assert {error.retry_after_seconds for error in model.refused} == {10}
    assert "9000 tokens wait" in model.refused[0].message
    assert model.scheduler.expected_seconds == pytest.approx(9)


def test_under_five_times_the_load_each_accepted_request_is_answered_in_time_and_no_pass_is_lost() -> None:
    model = Model(rate=1_000, wait=10)
    begun, answered = model.clock.now, []
    due, waiting = begun, dict[int, list[Row]]()
    while model.clock.now < begun + 60:
        while due <= model.clock.now:
            if rows := model.add(8, 15):
                waiting[id(rows[0])] = rows
            due += 0.12 / 5
        for row in model.run():
            row.order = -1
        done = [key for key, rows in waiting.items() if all(row.order == -1 for row in rows)]
        answered += [model.clock.now - waiting.pop(key)[0].enqueued_at for key in done]
    assert max(answered) < 9.3
    assert len(answered) * 120 > 0.98 * 60 * 1_000 - 10 * 1_000
    assert len(model.refused) > 3 * len(answered)
    assert all(9 <= error.retry_after_seconds <= 10 for error in model.refused)


def test_who_was_refused_is_refused_until_the_queue_is_shorter_so_that_short_requests_do_not_take_all_room() -> None:
    model = Model(rate=1_000, wait=10)
    while model.add(1, 50):
        pass
    assert model.scheduler.tokens == 9_000
    for _ in range(9):  # down to 8,550, a twentieth less
        with pytest.raises(Overloaded):
            model.scheduler.check(1, ANONYMOUS)
        model.scheduler.check(1, INTERACTIVE)
        model.run()
    model.run()
    assert model.add(1, 50)


def test_what_can_no_longer_be_answered_in_time_is_refused_before_it_runs_unless_half_of_it_has_run() -> None:
    model = Model(rate=1_000, wait=10)
    model.add(20, 50, BULK)  # nothing was before it: it may take any time
    begun, late = model.add(40, 50, BULK), model.add(20, 50, BULK)
    model.run(20 + 21)
    assert model.scheduler.take_late() == []
    model.clock.advance(9)
    assert {*map(id, model.scheduler.take_late())} == {*map(id, late)}
    assert model.scheduler.too_late(late).retry_after_seconds == 1
    left = [row for row in begun if row.order]
    assert {*map(id, model.run(30))} == {*map(id, left)}
    assert model.scheduler.rows == 0


def test_what_waits_behind_a_slower_model_is_refused_as_soon_as_it_cannot_be_in_time() -> None:
    model = Model(rate=1_000, wait=10)
    model.add(20, 50)
    rows = model.add(64, 50)
    model.clock.advance(5.7)
    assert model.scheduler.take_late() == []
    model.clock.advance(1.2)  # it takes 3.2 s
    assert len(model.scheduler.take_late()) == len(rows)
    assert model.scheduler.tokens == 1_000


def test_a_rate_that_drops_is_noticed_within_seconds() -> None:
    model = Model(rate=1_000)
    model.add(1_000, 8)
    model.rate = 100
    began = model.clock.now
    while model.clock.now < began + 6:
        model.run()
    assert 100 < model.scheduler.throughput.tokens_per_second < 150


def test_a_lane_that_hangs_counts_while_it_hangs() -> None:
    clock = TickingClock()
    scheduler = Scheduler(BatchLimits(64, 64), max_tokens=10**9, max_wait_seconds=10, lanes=2, clock=clock)
    for lane in (0, 1):
        scheduler.throughput.began(lane, 64)
    clock.advance(0.1)
    for lane in (0, 1):
        scheduler.throughput.ended(lane, is_full=True)
    assert scheduler.throughput.tokens_per_second == pytest.approx(1_280)
    scheduler.throughput.began(0, 64)
    clock.advance(0.5)
    assert scheduler.throughput.tokens_per_second == pytest.approx(1_280)
    clock.advance(63.5)
    assert scheduler.throughput.tokens_per_second == pytest.approx(641)
    assert scheduler.throughput.stalled(63) == [0]
    assert scheduler.throughput.stalled(65) == []
    scheduler.throughput.began(1, 64)
    clock.advance(64)
    scheduler.add(rows_of(1, 20))
    with pytest.raises(Overloaded) as caught:
        scheduler.add(rows_of(1, 20))
    assert caught.value.retry_after_seconds >= 20


def test_small_passes_of_an_idle_model_do_not_make_it_look_slow() -> None:
    model = Model(rate=1_000)
    model.rate = 50
    for _ in range(100):
        model.add(1, 5)
        model.run()
    assert model.scheduler.throughput.tokens_per_second == pytest.approx(1_000)


def test_an_empty_queue_takes_any_request_and_a_queue_no_more_tokens_than_it_may_hold() -> None:
    model = Model(known=False, queue=100)
    assert model.add(5, 50)
    assert not model.add(1, 1)
    assert model.refused[0].retry_after_seconds == 1
    assert "250 tokens wait (at most 100)" in model.refused[0].message


def test_no_wait_is_said_to_be_longer_than_clients_believe() -> None:
    model = Model(rate=10)
    model.add(100, 64, BULK)
    assert not model.add(1, 64, BULK)
    assert model.refused[0].retry_after_seconds == 59


def test_whether_there_is_room_can_be_asked_before_there_are_rows() -> None:
    model = Model(rate=1_000)
    model.scheduler.check(10**6, ANONYMOUS)
    model.add(90, 100, BULK)
    with pytest.raises(Overloaded):
        model.scheduler.check(100, BULK)
    model.run(10)
    model.scheduler.check(100, BULK)


def test_before_the_size_of_a_request_is_known_nothing_is_refused_that_might_be_of_a_tier_with_room() -> None:
    model = Model(rate=1_000, wait=10)
    while model.add(1, 50):
        pass
    with pytest.raises(Overloaded):
        model.scheduler.check(1, ANONYMOUS, most=200)
    model.scheduler.check(1, ANONYMOUS, most=2_000)


@pytest.mark.parametrize(
    ("caller", "count", "is_first"),
    [(ANONYMOUS, 2, True), (ANONYMOUS, 100, False), (INTERACTIVE, 100, True), (BULK, 1, False)],
)
def test_interactive_requests_run_first_by_key_or_else_by_size(caller: Caller, count: int, is_first: bool) -> None:
    model = Model()
    bulk = model.add(400, 8, Caller("other", tier="bulk"))
    later = model.add(count, 8, caller)
    assert (later[0] in model.run()) == is_first
    assert bulk


def test_bulk_gets_at_least_a_ninth_while_interactive_requests_keep_coming() -> None:
    model = Model(wait=10**6)
    model.add(10_000, 8, BULK)
    ran = {"interactive": 0, "bulk": 0}
    for _ in range(500):
        while model.scheduler._interactive.tokens < 200:
            model.add(1, 8, INTERACTIVE)
        for row in model.run():
            ran[row.tier] += row.tokens
    assert ran["bulk"] / (ran["bulk"] + ran["interactive"]) == pytest.approx(1 / 9, rel=0.05)


def test_bulk_passes_are_short_while_interactive_requests_are_expected() -> None:
    model = Model(rate=510)
    model.add(1_000, 4, BULK)
    assert len(model.run()) == 16
    model.add(1, 4, INTERACTIVE)
    assert [row.caller.name for row in model.run()] == ["i"]
    assert len(model.run()) == 2  # 8 tokens, an eighth of a batch: more than 0.01 s
    model.clock.advance(11)
    assert len(model.run()) == 16


@pytest.mark.parametrize(("tokens_a_second", "long_lanes"), [(100, 3), (1_500, 2), (2_500, 1), (4_500, 0)])
def test_as_many_lanes_as_interactive_requests_need_stay_soon_free_and_the_others_run_whole_batches(
    tokens_a_second: int, long_lanes: int
) -> None:
    clock = TickingClock()
    scheduler = Scheduler(BatchLimits(512, 512), max_tokens=10**9, max_wait_seconds=10**6, lanes=4, clock=clock)

    def run(*lanes: int) -> list[int]:
        """One pass on each of these lanes at 1,000 tokens a second; how many tokens each had."""
        tokens = [sum(row.tokens for row in scheduler.take(lane)) for lane in lanes]
        for lane, count in zip(lanes, tokens, strict=True):
            scheduler.throughput.began(lane, count)
        clock.advance(max(tokens) / 1_000)
        for lane in lanes:
            scheduler.throughput.ended(lane, is_full=True)
        return tokens

    scheduler.add(rows_of(1_000, 16, BULK))
    assert run(0, 1, 2, 3) == [512] * 4
    for _ in range(150):
        scheduler.add(rows_of(1, tokens_a_second // 10, INTERACTIVE))
        while scheduler._interactive.tokens:
            scheduler.take(0)
        clock.advance(0.1)
    passes = run(0, 1, 2, 3)
    assert sorted(passes) == [64] * (4 - long_lanes) + [512] * long_lanes
    assert [sum(row.tokens for row in scheduler.take(lane)) for lane in (3, 0)] == [passes[3], passes[0]]


@pytest.mark.parametrize(("went_on", "rate"), [(True, 100), (False, 125)])
def test_what_lies_between_two_passes_takes_time_too_unless_the_lane_has_waited(went_on: bool, rate: float) -> None:
    clock = TickingClock()
    throughput = Throughput(1, clock)
    for _ in range(20):
        throughput.began(0, 100, went_on=went_on)
        clock.advance(0.8)
        throughput.ended(0, is_full=True)
        clock.advance(0.2)
    assert throughput.tokens_per_second == pytest.approx(rate, rel=0.01)


def test_bulk_is_let_in_by_the_rate_that_interactive_requests_leave() -> None:
    model = Model(rate=1_000, wait=10)
    for _ in range(400):
        model.add(1, 40, INTERACTIVE)
        model.run()
        model.clock.advance(0.01)
    model.add(1, 100, BULK)
    model.scheduler.check(1_500, BULK)
    with pytest.raises(Overloaded):
        model.scheduler.check(2_500, BULK)


def test_a_caller_with_little_in_the_queue_is_let_in_beside_one_who_fills_it() -> None:
    model = Model(rate=1_000, wait=10)
    greedy, modest = Caller("greedy", tier="bulk"), Caller("modest", tier="bulk")
    while model.add(10, 64, greedy):
        pass
    asked = model.add(10, 64, modest)
    assert asked
    ran = model.run(25)
    assert {*map(id, asked)} <= {*map(id, ran)}


def test_the_rows_of_callers_who_left_make_room_at_once() -> None:
    model = Model(rate=1_000, wait=10)
    rows = model.add(90, 100, BULK)
    assert not model.add(20, 100, BULK)
    model.scheduler.discard(rows[:50])
    assert model.add(20, 100, BULK)
    assert model.scheduler.tokens == 6_000


@asynccontextmanager
async def held_lanes(
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[Lanes, FakeBackend, Callable[[int], "asyncio.Task[None]"]]]:
    """Lanes whose only thread is in a forward pass that ends when the gate opens."""
    backend = FakeBackend()
    backend.gate.clear()
    lanes = Lanes(
        backend,
        Scheduler(BatchLimits(32, 64), max_tokens=1_000, max_wait_seconds=10, clock=clock),
        check=lambda outputs, batch: None,
        count=1,
        name="m",
        on_batch=lambda _: None,
    )
    lanes.start()
    tasks: list[asyncio.Task[None]] = []

    def ask(count: int) -> "asyncio.Task[None]":
        rows: list[Any] = [Row(Features(np.full(8, 7, np.int32))) for _ in range(count)]
        ticket = Ticket(rows)
        lanes.submit(rows)
        tasks.append(asyncio.create_task(ticket.wait()))
        return tasks[-1]

    ask(1)
    assert await asyncio.to_thread(backend.started.wait, 60)
    try:
        yield lanes, backend, ask
    finally:
        backend.gate.set()
        await lanes.close()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)


async def test_requests_that_are_left_while_lanes_hang_leave_the_queue() -> None:
    async with held_lanes() as (lanes, _, ask):
        stays = ask(3)
        leaving = [ask(40), ask(2)]
        await asyncio.sleep(0)  # they wait by now
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving, timeout=60)
        assert (lanes.waiting_rows, lanes.waiting_tokens) == (3, 24)
        assert not stays.done()


async def test_what_is_not_answered_in_time_while_lanes_hang_is_refused() -> None:
    clock = TickingClock()
    async with held_lanes(clock) as (lanes, _, ask):
        first, late = ask(3), ask(2)
        clock.advance(9)
        assert not lanes.fail_stalled(120)
        assert lanes.waiting_rows == 5
        clock.advance(2)
        lanes.fail_stalled(120)
        with pytest.raises(Overloaded):
            await asyncio.wait_for(late, 60)
        assert lanes.waiting_rows == 3
        assert not first.done()


async def test_a_request_whose_rows_wait_in_two_queues_leaves_both() -> None:
    async with held_lanes() as (lanes, _, _), held_lanes() as (others, _, _):
        rows: list[Any] = [Row(Features(np.full(8, 7, np.int32))) for _ in range(2)]
        ticket = Ticket(rows)
        lanes.submit(rows[:1])
        others.submit(rows[1:])
        ticket.leave()
        assert (lanes.waiting_rows, others.waiting_rows) == (0, 0)


async def test_a_pass_that_fails_at_once_does_not_make_the_model_look_fast() -> None:
    clock = TickingClock()
    async with held_lanes(clock) as (lanes, backend, ask):
        clock.advance(1)
        backend.gate.set()
        await until(lambda: lanes.stalled(-1) == 0)
        assert lanes.tokens_per_second == pytest.approx(8)
        backend.failing = True
        with pytest.raises(EmbeddingFailed):
            await asyncio.wait_for(ask(1), 60)
        await until(lambda: lanes.stalled(-1) == 0)
        assert lanes.tokens_per_second == pytest.approx(8)


async def test_closing_ends_every_wait() -> None:
    async with held_lanes() as (lanes, backend, ask):
        waits = ask(3)
        closing = asyncio.create_task(lanes.close())
        with pytest.raises(ShuttingDown):
            await asyncio.wait_for(waits, 60)
        backend.gate.set()
        assert await closing
        with pytest.raises(ShuttingDown):
            ask(1)
