"""Which rows travel together: budget, fairness, order, overload."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.engine.batcher import Batcher, BatchLimits
from provider.engine.rows import Row, Ticket


def rows_of(*lengths: int) -> list[Row]:
    return [Row(np.full(length, 7, np.int32)) for length in lengths]


class _Waiter:
    """Stands in for a request, so that its rows count as wanted."""

    def row_settled(self, row: Row) -> None: ...


def wanted(rows: Sequence[Row]) -> list[Row]:
    for row in rows:
        row._tickets.append(_Waiter())  # type: ignore[arg-type]
    return list(rows)


def batcher(max_rows: int = 32, max_tokens: int = 512, *, free: bool = False, equal: bool = False) -> Batcher:
    return Batcher(BatchLimits(max_rows, max_tokens, free, equal))


def drain(queue: Batcher) -> list[list[Row]]:
    batches = []
    while batch := queue.take():
        batches.append(batch)
    return batches


requests = st.lists(st.lists(st.integers(1, 600), min_size=1, max_size=30), min_size=1, max_size=6)


@given(
    requests=requests,
    max_rows=st.integers(1, 40),
    max_tokens=st.integers(1, 700),
    free=st.booleans(),
    equal=st.booleans(),
)
def test_every_row_is_taken_exactly_once_within_the_budget(
    requests: list[list[int]], max_rows: int, max_tokens: int, free: bool, equal: bool
) -> None:
    queue = batcher(max_rows, max_tokens, free=free, equal=equal)
    everything = [wanted(rows_of(*lengths)) for lengths in requests]
    for rows in everything:
        queue.add(rows)
    batches = drain(queue)
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


def test_rows_of_like_length_travel_together() -> None:
    queue = batcher(max_rows=3, max_tokens=10_000)
    queue.add(wanted(rows_of(5, 100, 6, 101, 4, 99)))
    lengths = [sorted(row.tokens for row in batch) for batch in drain(queue)]
    assert sorted(lengths) == [[4, 5, 6], [99, 100, 101]]


def test_a_batch_ends_where_its_padding_would_cost_more_than_another_pass() -> None:
    lengths = (40, 38, 38, 8, 8, 8, 8)
    padded, free = batcher(max_tokens=512), batcher(max_tokens=512, free=True)
    for queue in (padded, free):
        queue.add(wanted(rows_of(*lengths)))
    assert [[row.tokens for row in batch] for batch in drain(padded)] == [[38, 38, 40], [8, 8, 8, 8]]
    assert [len(batch) for batch in drain(free)] == [7]


def test_batches_of_equal_lengths_are_as_full_as_they_can_be() -> None:
    queue = batcher(equal=True)
    queue.add(wanted(rows_of(8, 9, 8, 7, 8, 9)))
    assert [[row.tokens for row in batch] for batch in drain(queue)] == [[9, 9], [8, 8, 8], [7]]


def test_a_late_small_request_waits_for_one_batch_of_the_large_one() -> None:
    queue = batcher(max_rows=4)
    queue.add(wanted(rows_of(*[50] * 400)))
    queue.take()
    small = wanted(rows_of(3))
    queue.add(small)
    first, second = queue.take(), queue.take()
    assert small[0] in first + second


def test_one_long_input_does_not_hold_up_short_ones() -> None:
    queue = batcher(max_rows=32, max_tokens=512)
    queue.add(wanted(rows_of(512)))
    queue.add(wanted(rows_of(*[10] * 8)))
    assert [len(batch) for batch in drain(queue)] == [1, 8]


def test_a_row_longer_than_the_budget_makes_a_batch_of_its_own() -> None:
    queue = batcher(max_tokens=100)
    queue.add(wanted(rows_of(300, 20)))
    assert sorted(row.tokens for batch in drain(queue) for row in batch) == [20, 300]


def test_rows_that_nobody_waits_for_are_never_run() -> None:
    queue = batcher()
    queue.add(rows_of(5, 6))
    assert queue.take() == []
    assert queue.tokens == 0


def test_rows_that_nobody_waits_for_can_be_dropped_at_once() -> None:
    queue = batcher()
    queue.add(rows_of(90))
    fresh = wanted(rows_of(80))
    queue.add(fresh)
    queue.drop_unwanted()
    assert queue.tokens == 80
    assert queue.take() == fresh


async def test_a_ticket_ends_when_all_its_rows_have_vectors_and_names_the_input_that_failed() -> None:
    from provider.errors import EmbeddingFailed

    first, second = rows_of(3, 4)
    ticket = Ticket([first, second])
    first.settle(vector=np.zeros(2, np.float32))
    second.settle(error=EmbeddingFailed("it failed"))
    with pytest.raises(EmbeddingFailed, match=r"input\[1\]: it failed"):
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
    row.settle(vector=np.zeros(2, np.float32))
    await stays.wait()
