"""Which rows go into the next forward pass. A data structure without threads or timers; `lanes` runs it.

No timer ever holds a row back: a free lane takes what is there, and while all lanes are busy the next batches grow by
themselves. Each batch is *led* by one request, and requests lead in turn, so that a request waits for at most one batch
of every other request before it is its turn, however many rows the others brought. The leader's longest row sets the
length, and the batch is filled with the waiting rows nearest to it in length, whoever sent them: short rows travel with
short ones. Where padding costs, a batch ends before its padding would cost more than the next pass; where it changes
vectors, there is none.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

from attrs import define, frozen

from provider.engine.rows import Row

# What one pass more costs beside its tokens, as a share of a full batch: on a CPU, with batches of 512 tokens, it is as
# much as 10 to 30 of them cost.
_PASS_COST = 1 / 32


@frozen
class BatchLimits:
    """What one batch may hold.

    Attributes:
        max_rows: most rows.
        max_tokens: most tokens; a single longer row still makes a batch of its own.
        padding_is_free: whether tokens are counted one by one (True) or as longest x rows, the rectangle (False).
        equal_lengths: whether all rows must have the same length.
    """

    max_rows: int
    max_tokens: int
    padding_is_free: bool = False
    equal_lengths: bool = False

    def hold(self, rows: int, longest: int, tokens: int) -> bool:
        """Whether so many `rows` may share a batch: the `longest` of so many tokens, all together of `tokens`."""
        padding = longest * rows - tokens
        if rows > self.max_rows or (self.equal_lengths and padding):
            return False
        if self.padding_is_free:
            return tokens <= self.max_tokens
        return tokens + padding <= self.max_tokens and padding <= _PASS_COST * self.max_tokens


@define(eq=False, order=False)
class _Waiting:
    """A row in the queue; `order` makes keys unique, so that rows themselves are never compared."""

    row: Row
    order: int
    is_taken: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return (self.row.tokens, self.order)


class Batcher:
    """The queue of one model. Not thread-safe: `Lanes` guards it."""

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._by_length: list[tuple[int, int, _Waiting]] = []
        self._requests: deque[deque[_Waiting]] = deque()
        self._order = 0
        self.tokens = 0

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return len(self._by_length)

    def add(self, rows: Sequence[Row]) -> None:
        """Take the rows of a request."""
        request: deque[_Waiting] = deque()
        for row in sorted(rows, key=lambda each: -each.tokens):
            self._order += 1
            waiting = _Waiting(row, self._order)
            request.append(waiting)
            insort(self._by_length, (*waiting.key, waiting))
        self._requests.append(request)
        self.tokens += sum(row.tokens for row in rows)

    def take(self) -> list[Row]:
        """The next batch; empty if nothing waits. Rows that nobody waits for are dropped on the way."""
        while True:
            leader = self._next_leader()
            if leader is None:
                return []
            start = bisect_left(self._by_length, (*leader.key, leader))
            low, high = self._around(start)
            chosen = [waiting for _, _, waiting in self._by_length[low:high]]
            del self._by_length[low:high]
            for waiting in chosen:
                waiting.is_taken = True
                self.tokens -= waiting.row.tokens
            if wanted := [waiting.row for waiting in chosen if waiting.row.is_wanted]:
                return wanted

    def take_all(self) -> list[Row]:
        """Empty the queue."""
        rows = [waiting.row for _, _, waiting in self._by_length]
        self._by_length.clear()
        self._requests.clear()
        self.tokens = 0
        return rows

    def _next_leader(self) -> _Waiting | None:
        while self._requests:
            request = self._requests.popleft()
            while request and request[0].is_taken:
                request.popleft()
            if request:
                self._requests.append(request)
                return request[0]
        return None

    def _around(self, start: int) -> tuple[int, int]:
        """Grow the slice of rows around `start` towards whichever neighbour is nearest in length, while it fits."""
        lengths, fit = self._by_length, self._limits.hold
        own = lengths[start][0]
        low, high, tokens, longest = start, start + 1, own, own
        while low > 0 or high < len(lengths):
            below = lengths[low - 1][0] if low > 0 else None
            above = lengths[high][0] if high < len(lengths) else None
            take_below = above is None or (below is not None and own - below <= above - own)
            length = below if take_below else above
            if length is None or not fit(high - low + 1, max(longest, length), tokens + length):
                # The nearest does not fit. A longer one fits even less; a shorter one may.
                if take_below or below is None or not fit(high - low + 1, longest, tokens + below):
                    break
                take_below, length = True, below
            low, high = (low - 1, high) if take_below else (low, high + 1)
            tokens, longest = tokens + length, max(longest, length)
        return low, high

    def drop_unwanted(self) -> None:
        """Forget rows that nobody waits for."""
        kept = []
        for entry in self._by_length:
            if entry[2].row.is_wanted:
                kept.append(entry)
            else:
                entry[2].is_taken = True
                self.tokens -= entry[2].row.tokens
        self._by_length = kept
