"""Bytes that requests hold: counted as they come, over the limit in line, the oldest request first."""

import asyncio
import threading

import pytest
from waiting import PATIENCE_SECONDS

from provider.errors import TooManyRequests
from provider.http.budget import ByteBudget, Share
from provider.settings import QueueSettings
from provider.testing import TickingClock


def budget(max_wait_seconds: float = 30) -> ByteBudget:
    return ByteBudget(QueueSettings(max_request_bytes=1024, max_wait_seconds=max_wait_seconds))


async def taking(share: Share, count: int) -> "asyncio.Task[None]":
    """A request that takes bytes, as far as it comes."""
    task = asyncio.create_task(share.take(count))
    for _ in range(10):
        await asyncio.sleep(0)
    return task


async def test_bytes_over_the_limit_wait_for_those_that_are_given_back_in_turn() -> None:
    total = budget()
    first, second, third = (Share(total) for _ in range(3))
    await first.take(1000)
    large, small = await taking(second, 1000), await taking(third, 10)
    assert (large.done(), small.done(), total.total) == (False, False, 1000)
    first.release()
    await asyncio.wait_for(asyncio.gather(large, small), PATIENCE_SECONDS)
    assert (second.held, third.held, total.total) == (1000, 10, 1010)


async def test_of_bodies_that_are_all_half_there_the_oldest_goes_on() -> None:
    total = budget()
    shares = [Share(total) for _ in range(4)]
    for share in shares:
        await share.take(256)
    later = [await taking(share, 700) for share in shares[1:]]
    await asyncio.wait_for(shares[0].take(5000), PATIENCE_SECONDS)
    for share, task in zip(shares, later, strict=False):
        assert not task.done()
        share.release()
        await asyncio.wait_for(task, PATIENCE_SECONDS)


async def test_a_request_that_gave_back_all_it_held_is_not_the_oldest_any_more() -> None:
    total = budget()
    empty, first = Share(total), Share(total)
    await empty.take(20)
    empty.add(-20)
    await first.take(1000)
    await asyncio.wait_for(first.take(5000), PATIENCE_SECONDS)


async def test_bytes_that_wait_for_too_long_are_refused_and_the_next_move_up() -> None:
    total = budget(max_wait_seconds=0.05)
    first, second, third = (Share(total) for _ in range(3))
    await first.take(1000)
    large, small = await taking(second, 1000), await taking(third, 10)
    with pytest.raises(TooManyRequests, match="of 1024"):
        await asyncio.wait_for(large, PATIENCE_SECONDS)
    await asyncio.wait({small}, timeout=PATIENCE_SECONDS)
    second.release()
    first.release()
    third.release()
    assert total.total == 0


async def test_who_leaves_while_waiting_lets_the_next_one_up() -> None:
    total = budget()
    first, second, third = (Share(total) for _ in range(3))
    await first.take(1000)
    large, small = await taking(second, 1000), await taking(third, 10)
    large.cancel()
    await asyncio.wait_for(small, PATIENCE_SECONDS)
    assert (second.held, third.held) == (0, 10)


async def test_bytes_that_are_there_count_whatever_the_limit() -> None:
    total = budget()
    first, second = Share(total), Share(total)
    first.add(5000)
    waiting = await taking(second, 1)
    assert not waiting.done()
    first.add(-4500)
    await asyncio.wait_for(waiting, PATIENCE_SECONDS)
    assert total.total == 501


async def test_a_refusal_says_when_there_will_be_room_by_how_long_others_held_theirs() -> None:
    clock = TickingClock()
    total = ByteBudget(QueueSettings(max_request_bytes=1024, max_wait_seconds=0), clock)
    before, holder, refused = (Share(total) for _ in range(3))
    await before.take(1000)
    clock.advance(20)
    before.release()
    await holder.take(1000)
    with pytest.raises(TooManyRequests) as caught:
        await refused.take(524)
    assert caught.value.retry_after_seconds == 10
    assert "try again in 10s" in caught.value.message


class Reader:
    """A client that has yet to read so many bytes."""

    def __init__(self, unread: int) -> None:
        self.unwritten_bytes, self.is_dropped = unread, False
        self._over = asyncio.Event()

    async def written(self) -> None:
        await self._over.wait()

    def read(self, count: int) -> None:
        self.unwritten_bytes -= count
        if not self.unwritten_bytes:
            self._over.set()

    def drop_unread(self) -> None:
        self.is_dropped = True
        self.read(self.unwritten_bytes)


async def reading(total: ByteBudget, *readers: Reader) -> "list[asyncio.Task[None]]":
    """Answers that are handed to these clients."""

    async def answered(reader: Reader) -> None:
        share = Share(total)
        await share.until_read(reader)
        share.release()

    tasks = [asyncio.create_task(answered(reader)) for reader in readers]
    await asyncio.sleep(0)
    return tasks


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.http.budget._LOOK_SECONDS", 0.001)


@pytest.mark.usefixtures("often")
async def test_when_others_need_the_room_the_slowest_readers_lose_theirs_and_only_as_many_as_needed() -> None:
    clock = TickingClock()
    total = ByteBudget(QueueSettings(max_request_bytes=1000, max_wait_seconds=60), clock)
    stuck, slow, quick, late = Reader(300), Reader(400), Reader(300), Reader(100)
    answers = await reading(total, quick, stuck, slow)
    clock.advance(2)
    answers += await reading(total, late)
    slow.read(100)
    quick.read(200)
    await asyncio.wait_for(Share(total).take(200), PATIENCE_SECONDS)
    assert total.total == 1000  # what was read is known by now
    assert [each.is_dropped for each in (stuck, slow, quick, late)] == [False] * 4
    await asyncio.wait_for(Share(total).take(250), PATIENCE_SECONDS)
    assert [each.is_dropped for each in (stuck, slow, quick, late)] == [True, False, False, False]
    assert total.total == 950
    vain = await taking(Share(total), 5000)
    await asyncio.sleep(0.01)
    assert [each.is_dropped for each in (slow, quick, late)] == [False] * 3
    assert not vain.done()
    vain.cancel()
    for each in (slow, quick, late):
        each.read(each.unwritten_bytes)
    await asyncio.wait_for(asyncio.gather(*answers), PATIENCE_SECONDS)


async def test_memory_goes_back_to_the_system_after_much_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.http.budget._PAUSE_SECONDS", 0)
    given_back = threading.Event()
    total = ByteBudget(QueueSettings(), give_back=given_back.set)
    for size, is_much in ((1000, False), (100_000_000, True)):
        share = Share(total)
        share.add(size)
        share.release()
        assert await asyncio.to_thread(given_back.wait, PATIENCE_SECONDS if is_much else 0) is is_much
