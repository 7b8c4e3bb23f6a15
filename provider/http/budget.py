"""Bytes that requests hold: bodies as they arrive, and answers until they are read. Over the limit, both wait.

Clients that do not read their answers keep nobody waiting: when others need the room, the slowest lose theirs.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from provider.errors import TooManyRequests
from provider.http.pace import Pace, retry_seconds
from provider.resident import give_memory_back
from provider.settings import QueueSettings

FREE_BYTES = 65_536
"""Of each body: what the server reads ahead in any case. So large bodies never keep out small ones."""

# The allocator keeps what is freed. After so many bytes it is told to give them back, after a pause in which more come.
_KEPT_BYTES = 32 * 1024 * 1024
_PAUSE_SECONDS = 5.0
# While requests wait: a client is given the time of one round trip to read on, and then looked at again and again.
_GRACE_SECONDS, _LOOK_SECONDS = 1.0, 0.25


class Connection(Protocol):
    """What our server puts into a request's state as `connection`; others do not."""

    @property
    def unwritten_bytes(self) -> int:
        """Of answers that the client has yet to read; 0 where they are few."""

    async def written(self) -> None:
        """Return when the client has read most of them, or is gone."""

    def drop_unread(self) -> None:
        """End the connection, and forget what is unread."""


class ByteBudget:
    """At most `queue.max_request_bytes` for all requests together. Used on the event loop's thread only.

    The request that has held bytes for longest goes on whatever it needs, so that bodies which are all half there do
    not wait for each other without end: the limit is exceeded by one body and its answer at most.

    Attributes:
        total: bytes that are held.
    """

    def __init__(
        self,
        settings: QueueSettings,
        clock: Callable[[], float] = time.monotonic,
        give_back: Callable[[], None] = give_memory_back,
    ) -> None:
        """Nothing is held yet.

        Args:
            settings: the limit, and how long bytes wait.
            clock: seconds, monotonic.
            give_back: called in a thread when much was held and no longer is.
        """
        self.total = 0
        self._limit, self._max_wait = settings.max_request_bytes, settings.max_wait_seconds
        self._clock, self._pace = clock, Pace()
        self._give_back, self._most = give_back, 0
        self._giving_back: asyncio.TimerHandle | None = None
        # Those that hold something, and since when, the oldest first.
        self._shares: dict[Share, float] = {}
        self._line: deque[_Wanted] = deque()
        self._unread: dict[Share, _Unread] = {}
        self._looking: asyncio.TimerHandle | None = None

    async def take(self, share: "Share", count: int) -> None:
        """See `Share.take`."""
        self._hold(share)
        if (not self._line and self.total + count <= self._limit) or self._is_oldest(share):
            self.add(share, count)
            return
        wanted = _Wanted(share, count)
        self._line.append(wanted)
        if self._looking is None:
            self._look()
        try:
            # `wait` neither cancels nor raises, so that room which comes at the last moment is not lost.
            await asyncio.wait([wanted.room], timeout=self._max_wait)
            if not wanted.room.done():
                raise self._overloaded()
        finally:
            if wanted in self._line:
                self._line.remove(wanted)
                if not share.held:
                    del self._shares[share]
                self._let_in()

    async def until_read(self, share: "Share", connection: Connection) -> None:
        """See `Share.until_read`."""
        # Nothing else is left of the request.
        self.add(share, connection.unwritten_bytes - share.held)
        self._unread[share] = _Unread(connection, share.held, self._clock())
        try:
            await connection.written()
        finally:
            del self._unread[share]

    def add(self, share: "Share", count: int) -> None:
        """See `Share.add`."""
        self._hold(share)
        share.held += count
        self.total += count
        self._most = max(self._most, self.total)
        if not share.held:
            # A compressed body may decode to nothing. The request is no longer the oldest that holds something.
            del self._shares[share]
        if count < 0:
            self._let_in()

    def release(self, share: "Share") -> None:
        """See `Share.release`."""
        self.total -= share.held
        share.held = 0
        if (since := self._shares.pop(share, None)) is not None:
            self._pace.ended(self._clock() - since)
        self._let_in()
        if self._most - self.total > _KEPT_BYTES and self._giving_back is None:
            self._giving_back = asyncio.get_running_loop().call_later(_PAUSE_SECONDS, self._give_memory_back)

    def _hold(self, share: "Share") -> None:
        if share not in self._shares:
            self._shares[share] = self._clock()

    def _is_oldest(self, share: "Share") -> bool:
        return next(iter(self._shares)) is share

    def _let_in(self) -> None:
        for wanted in list(self._line):
            is_next = wanted is self._line[0] and self._lacking() <= 0
            if is_next or self._is_oldest(wanted.share):
                self._line.remove(wanted)
                self.add(wanted.share, wanted.count)
                wanted.room.set_result(None)

    def _look(self) -> None:
        """See what was read meanwhile; if that is too little for the first in line, drop those who read slowest."""
        for share, unread in self._unread.items():
            self.add(share, unread.connection.unwritten_bytes - share.held)
        now = self._clock()
        late = [share for share, unread in self._unread.items() if share.held and now - unread.since >= _GRACE_SECONDS]
        late.sort(key=lambda share: self._unread[share].bytes_per_second(share.held, now))
        # Where all of them together are not enough, they are not what keeps others waiting.
        while self._line and late and self._lacking() <= sum(share.held for share in late):
            slowest = late.pop(0)
            self._unread[slowest].connection.drop_unread()
            self.add(slowest, -slowest.held)
        self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look) if self._line else None

    def _lacking(self) -> int:
        """Bytes that the first in line waits for."""
        return self.total + self._line[0].count - self._limit

    def _give_memory_back(self) -> None:
        self._giving_back, self._most = None, self.total
        asyncio.get_running_loop().run_in_executor(None, self._give_back)

    def _overloaded(self) -> TooManyRequests:
        excess = self.total + sum(each.count for each in self._line) - self._limit
        # Where none has ended yet, all that is known is that it takes longer than this one has waited.
        seconds = self._pace.seconds_until(excess, self.total) or self._max_wait
        retry = retry_seconds(seconds)
        msg = (
            f"The service is overloaded: requests hold {self.total} bytes of {self._limit}. "
            f"Please try again in {retry}s."
        )
        return TooManyRequests(msg, retry_after_seconds=retry)


@define(eq=False)
class Share:
    """What one request holds of the budget, in bytes."""

    _budget: ByteBudget
    held: int = 0

    async def take(self, count: int) -> None:
        """Wait until there is room for `count` more bytes.

        Raises:
            TooManyRequests: there was none for `queue.max_wait_seconds`.
        """
        await self._budget.take(self, count)

    def add(self, count: int) -> None:
        """Count bytes that are there already, or are no longer there if `count` is negative."""
        self._budget.add(self, count)

    async def until_read(self, connection: Connection) -> None:
        """Hold what the client of `connection` has yet to read, until it has. If others need the room, it is dropped.

        Those who read slowest are dropped first, and only what was unread for a second.
        """
        await self._budget.until_read(self, connection)

    def release(self) -> None:
        """The end of the request."""
        self._budget.release(self)


@define(eq=False)
class _Wanted:
    """More bytes of a body; `room` is done when they are counted."""

    share: Share
    count: int
    room: "asyncio.Future[None]" = field(factory=lambda: asyncio.get_running_loop().create_future())


@define
class _Unread:
    """An answer that was handed to `connection`, of which `size` bytes were unread `since` then."""

    connection: Connection
    size: int
    since: float

    def bytes_per_second(self, left: int, now: float) -> float:
        return (self.size - left) / (now - self.since)
