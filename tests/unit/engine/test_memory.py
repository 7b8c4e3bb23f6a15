"""Memory that runs out: no row fails that fits alone, batches get smaller, and grow back."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_SECONDS

from provider.backends import TokenBatch
from provider.domain import Features
from provider.engine.lanes import Lanes
from provider.engine.limits import BatchLimits
from provider.engine.memory import PassLock, TokenBudget
from provider.engine.outcome import BatchOutcome
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.errors import EmbeddingFailed
from provider.settings import ModelSettings, Settings
from provider.testing import FakeBackend

LIMITS = BatchLimits(32, 64)


class Small:
    """A backend's memory: so many tokens at a time, over all passes; the first passes of `lanes` lanes meet."""

    def __init__(self, tokens: int, *, lanes: int = 1) -> None:
        self._tokens, self._used, self._lock = tokens, 0, threading.Lock()
        self._first, self._meet = lanes, threading.Barrier(lanes)

    def __call__(self, batch: TokenBatch) -> None:
        with self._lock:
            self._used += batch.tokens
            meets, self._first = self._first > 0, self._first - 1
        if meets:
            self._meet.wait(PATIENCE_SECONDS)
        fits = self._used <= self._tokens
        if meets:
            self._meet.wait(PATIENCE_SECONDS)
        with self._lock:
            self._used -= batch.tokens
        if not fits:
            msg = f"{batch.tokens} tokens do not fit"
            raise MemoryError(msg)


async def run(backend: FakeBackend, rows: list[Row], *, lanes: int = 1) -> tuple[Lanes, list[BatchOutcome]]:
    """Run all rows as one request; afterwards the lanes are closed."""
    outcomes: list[BatchOutcome] = []
    scheduler = Scheduler(LIMITS, max_tokens=10_000, max_wait_seconds=60, lanes=lanes)
    made = Lanes(backend, scheduler, check=lambda outputs, batch: None, count=lanes, name="m", on_batch=outcomes.append)
    ticket = Ticket(rows)
    made.start()
    try:
        made.submit(rows)
        await asyncio.wait_for(ticket.wait(), PATIENCE_SECONDS)
    finally:
        await made.close()
    return made, outcomes


def rows_of(*lengths: int) -> list[Row]:
    return [Row(Features(np.full(length, 7, np.int32))) for length in lengths]


async def test_a_batch_that_does_not_fit_is_run_in_parts_and_the_next_ones_are_smaller() -> None:
    backend = FakeBackend()
    backend.before_run = Small(20)
    rows = rows_of(*[8] * 16)
    lanes, outcomes = await run(backend, rows)
    assert all(row.outputs is not None for row in rows)
    assert lanes.batch_tokens == 16
    assert lanes.failures_in_a_row == 0
    sizes = [batch.tokens for batch in backend.batches]
    assert sizes == [64, 32, 16, 16, 32, 16, 16, 16, 16, 16, 16]
    assert [type(each.error) for each in outcomes if each.error] == [MemoryError] * 3


async def test_an_error_that_holds_the_activations_is_dropped_before_the_halves_run() -> None:
    backend = FakeBackend()
    backend.before_run = Small(20)
    _, outcomes = await run(backend, rows_of(*[8] * 8))
    (error, *_) = [each.error for each in outcomes if each.error]
    assert "64 tokens" in str(error)
    assert error.__traceback__ is None
    assert error.__context__ is None


async def test_a_row_that_fits_only_alone_runs_alone() -> None:
    backend = FakeBackend()
    backend.before_run = Small(100, lanes=2)
    rows = rows_of(80, 80)
    lanes, outcomes = await run(backend, rows, lanes=2)
    assert all(row.outputs is not None for row in rows)
    assert sorted(each.error is None for each in outcomes) == [False, False, True, True]
    assert lanes.failures_in_a_row == 0


async def test_a_row_that_does_not_fit_even_alone_fails_by_itself() -> None:
    backend = FakeBackend()
    backend.before_run = Small(50)
    large, *small = rows_of(60, 8, 8)
    with pytest.raises(EmbeddingFailed, match=r"input 0: .*MemoryError"):
        await run(backend, [large, *small])
    assert [batch.tokens for batch in backend.batches if batch.tokens == 60] == [60, 60]


def test_the_budget_grows_back_slowly_and_never_above_what_was_chosen() -> None:
    budget = TokenBudget(LIMITS, LIMITS)
    # Two lanes fail at once: that is one lesson.
    budget.ran_out(64)
    budget.ran_out(64)
    assert budget.now.max_tokens == 32
    budget.ran_out(1)
    assert budget.now.max_tokens == 1
    for _ in range(99):
        budget.ran()
    assert budget.now.max_tokens == 1
    budget.ran()
    assert budget.now.max_tokens == 9
    for _ in range(2000):
        budget.ran()
    assert budget.is_full
    assert budget.now == LIMITS


def test_two_passes_that_want_to_be_alone_take_turns() -> None:
    lock, together, most = PassLock(), [0], [0]

    def alone() -> None:
        for _ in range(50):
            with lock.shared():
                pass
            with lock.alone():
                together[0] += 1
                most[0] = max(most[0], together[0])
                together[0] -= 1

    threads = [threading.Thread(target=alone, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert most == [1]


def test_a_pass_that_hangs_stops_no_other() -> None:
    lock = PassLock(wait_seconds=0.01)
    with lock.shared(), lock.alone(), lock.shared(), lock.alone():
        pass
    with lock.alone():
        pass


async def test_the_operator_sees_the_smaller_budget_and_is_told_once(open_service: Any, minilm: Any) -> None:
    from provider.dialects.openai.models import describe
    from provider.domain import EmbedRequest

    model = ModelSettings(name="m", path=str(minilm), backend="fake", lanes=1, max_batch_tokens=64)
    async with open_service(Settings(model=model)) as service:
        runtime = service.runtimes["m"]
        assert describe("m", runtime)["batch_tokens"] == 64
        runtime.loaded.backend.before_run = Small(20)
        texts = tuple(f"text {i} of many" for i in range(8))
        for again in ("", " too"):
            embedded = await service.embed(EmbedRequest("m", tuple(text + again for text in texts)))
            assert np.isfinite(embedded.vectors).all()
        assert describe("m", runtime)["batch_tokens"] < 32
        assert len([notice for notice in runtime.notices if "memory ran out" in notice]) == 1
        assert not service.problems
