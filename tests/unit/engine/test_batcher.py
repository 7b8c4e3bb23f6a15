"""Which rows travel together: budget, fairness, order, overload."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.domain import ANONYMOUS, Caller, Features
from provider.engine.batcher import Batcher
from provider.engine.limits import BatchLimits
from provider.engine.rows import Row, Ticket


def rows_of(*lengths: int, caller: Caller = ANONYMOUS) -> list[Row]:
    return [Row(Features(np.full(length, 7, np.int32)), caller=caller) for length in lengths]


class _Waiter:
    """Stands in for a request, so that its rows count as wanted."""

    def row_settled(self, row: Row) -> None: ...


def wanted(rows: Sequence[Row]) -> list[Row]:
    for row in rows:
        row._tickets.append(_Waiter())  # type: ignore[arg-type]
    return list(rows)


LIMITS = BatchLimits(32, 512)


def drain(queue: Batcher, limits: BatchLimits = LIMITS) -> list[list[Row]]:
    batches = []
    while batch := queue.take(limits):
        batches.append(batch)
    return batches


requests = st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=30), min_size=1, max_size=6)


@given(
    requests=requests,
    max_rows=st.integers(1, 40),
    max_tokens=st.integers(1, 700),
    free=st.booleans(),
    equal=st.booleans(),
    by_age=st.booleans(),
)
def test_every_row_is_taken_exactly_once_within_the_budget(
    requests: list[list[int]], max_rows: int, max_tokens: int, free: bool, equal: bool, *, by_age: bool
) -> None:
    queue = Batcher(by_age=by_age)
    everything = [wanted(rows_of(*lengths)) for lengths in requests]
    for rows in everything:
        queue.add(rows)
    batches = drain(queue, BatchLimits(max_rows, max_tokens, free, equal))
    taken = [row for batch in batches for row in batch]
    assert sorted(map(id, taken)) == sorted(id(row) for rows in everything for row in rows)
    for batch in batches:
        lengths = [row.tokens for row in batch]
        cost = sum(lengths) if free else max(lengths) * len(lengths)
        assert len(batch) <= max_rows
        assert cost <= max_tokens or len(batch) == 1
        assert cost - sum(lengths) <= max_tokens / 32
        assert not equal or len(set(lengths)) == 1
    assert queue.tokens == 0
    assert queue.rows == 0


@given(requests=requests, max_rows=st.integers(1, 40), max_tokens=st.integers(1, 700))
def test_by_age_requests_end_in_the_order_in_which_they_came(
    requests: list[list[int]], max_rows: int, max_tokens: int
) -> None:
    queue, number = Batcher(by_age=True), {}
    for i, lengths in enumerate(requests):
        rows = wanted(rows_of(*lengths))
        number.update(dict.fromkeys(map(id, rows), i))
        queue.add(rows)
    batches = drain(queue, BatchLimits(max_rows, max_tokens, padding_is_free=True))
    order = [number[id(row)] for batch in batches for row in batch]
    assert order == sorted(order)
    # Each batch was full: the first row of the next one had no room.
    for batch, after in pairwise(batches):
        assert len(batch) == max_rows or sum(row.tokens for row in batch) + after[0].tokens > max_tokens


def test_rows_of_like_length_travel_together() -> None:
    queue = Batcher()
    queue.add(wanted(rows_of(5, 100, 6, 101, 4, 99)))
    lengths = [sorted(row.tokens for row in batch) for batch in drain(queue, BatchLimits(3, 10_000))]
    assert sorted(lengths) == [[4, 5, 6], [99, 100, 101]]


def test_a_batch_ends_where_its_padding_would_cost_more_than_another_pass() -> None:
    padded, free = Batcher(), Batcher()
    for queue in (padded, free):
        queue.add(wanted(rows_of(40, 38, 38, 8, 8, 8, 8)))
    assert [[row.tokens for row in batch] for batch in drain(padded)] == [[38, 38, 40], [8, 8, 8, 8]]
    assert [len(batch) for batch in drain(free, BatchLimits(32, 512, padding_is_free=True))] == [7]


def test_batches_of_equal_lengths_are_as_full_as_they_can_be() -> None:
    queue, limits = Batcher(), BatchLimits(32, 512, equal_lengths=True)
    queue.add(wanted(rows_of(8, 9, 8, 7, 8, 9)))
    assert [[row.tokens for row in batch] for batch in drain(queue, limits)] == [[9, 9], [8, 8, 8], [7]]


def test_the_oldest_request_of_a_caller_leads_and_its_long_rows_do_not_starve() -> None:
    queue, limits = Batcher(), BatchLimits(4, 512)
    old = wanted(rows_of(300, *[50] * 5))
    queue.add(old)
    for _ in range(20):
        queue.add(wanted(rows_of(50, 50)))
    assert queue.take(limits) == old[:1]
    assert queue.take(limits) + queue.take(limits)[:1] == old[1:]


def test_one_long_input_does_not_hold_up_short_ones() -> None:
    queue = Batcher()
    queue.add(wanted(rows_of(512)))
    queue.add(wanted(rows_of(*[10] * 8)))
    assert [len(batch) for batch in drain(queue)] == [1, 8]


def test_a_row_longer_than_the_budget_makes_a_batch_of_its_own() -> None:
    queue = Batcher()
    queue.add(wanted(rows_of(300, 20)))
    assert [[row.tokens for row in batch] for batch in drain(queue, BatchLimits(32, 100))] == [[300], [20]]


def test_rows_that_nobody_waits_for_are_never_run() -> None:
    queue = Batcher()
    queue.add(rows_of(5, 6))
    assert queue.take(LIMITS) == []
    assert queue.tokens == 0


@pytest.mark.parametrize("count", [3, 100])
def test_rows_whose_callers_left_are_freed_at_once(count: int) -> None:
    queue = Batcher()
    gone, kept = wanted(rows_of(*[9] * count)), wanted(rows_of(5, 9, 13))
    queue.add(gone)
    queue.add(kept)
    freed = [weakref.ref(row) for row in gone]
    queue.discard(gone)
    queue.discard(gone)
    del gone
    gc.collect()
    assert not any(ref() for ref in freed)
    assert (queue.tokens, queue.rows) == (27, 3)
    assert {id(row) for row in queue.take(LIMITS) + queue.take(LIMITS) + queue.take(LIMITS)} == {*map(id, kept)}


@given(
    weights=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    lengths=st.lists(st.integers(8, 200), min_size=5, max_size=5),
    connections=st.lists(st.integers(1, 30), min_size=5, max_size=5),
    free=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_busy_callers_get_tokens_by_their_weights_however_many_requests_they_send(
    weights: list[int], lengths: list[int], connections: list[int], free: bool
) -> None:
    queue, limits = Batcher(), BatchLimits(32, 512, padding_is_free=free)
    callers = [Caller(str(i), weight=weight) for i, weight in enumerate(weights)]
    waiting = dict.fromkeys(callers, 0)
    had = dict.fromkeys(callers, 0)
    for _ in range(60):
        for i, caller in enumerate(callers):
            while waiting[caller] < 2_000:
                for _ in range(connections[i]):
                    queue.add(wanted(rows_of(lengths[i], caller=caller)))
                    waiting[caller] += lengths[i]
        for row in queue.take(limits):
            waiting[row.caller] -= row.tokens
            had[row.caller] += row.tokens
        shares = [had[caller] / caller.weight for caller in callers]
        assert max(shares) - min(shares) <= 7 * limits.max_tokens


@given(lengths=st.lists(st.integers(1, 600), min_size=1, max_size=20), others=st.integers(1, 4))
def test_a_row_waits_for_no_more_than_a_turn_of_each_other_caller(lengths: list[int], others: int) -> None:
    queue = Batcher()
    busy = [Caller(str(i)) for i in range(others)]
    for caller in busy:
        queue.add(wanted(rows_of(*lengths * 20, caller=caller)))
    (late,) = wanted(rows_of(600, caller=Caller("late")))
    queue.take(LIMITS)
    queue.add([late])
    tokens = 0
    while late not in (batch := queue.take(LIMITS)):
        tokens += sum(row.tokens for row in batch)
    assert tokens <= 2 * others * (LIMITS.max_tokens + 600)


async def test_a_ticket_ends_when_all_its_rows_have_vectors_and_names_the_input_that_failed() -> None:
    from provider.errors import EmbeddingFailed

    first, second = rows_of(3, 4)
    ticket = Ticket([first, second])
    first.settle(outputs={"dense": np.zeros(2, np.float32)})
    second.settle(error=EmbeddingFailed("it failed"))
    with pytest.raises(EmbeddingFailed, match="input 1: it failed"):
        await ticket.wait()


async def test_a_caller_who_leaves_takes_its_wish_along_but_not_that_of_others() -> None:
    (row,) = rows_of(3)
    gone, stays = Ticket([row]), Ticket([row])
    task = asyncio.create_task(gone.wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert row.is_wanted
    row.settle(outputs={"dense": np.zeros(2, np.float32)})
    await stays.wait()
