"""Which rows go into the next forward pass. Data structures without threads, timers and clocks.

No timer ever holds a row back: a free lane takes what is there, and while all lanes are busy the next batches grow by
themselves. Each batch is *led* by one request. Callers lead in turn, by deficit round robin: each gets as many tokens
as every other, times its weight, however many requests it has under way. Of one caller, the oldest request leads: so
it is known at once when a request will be answered, and long rows do not starve.

Batches are filled by age or by length, first with rows of the same caller. By age, the rows behind the leader come
along: requests end in the order in which they came. By length, those nearest to the leader's longest row do: short rows
travel with short ones. Where padding costs, a batch ends before its padding would cost more than the next pass; where
it changes vectors, there is none.
"""

import math
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence

from attrs import define, field

from provider.domain import Caller
from provider.engine.limits import BatchLimits, Filling
from provider.engine.rows import Row

# Rows of a caller who has had so many turns in advance fill no batches that others lead.
_MOST_ADVANCE = 4
# More rows than this are faster added or removed by going through all.
_FEW = 32


@define(eq=False)
class _Request:
    """Rows that came together, longest first; the first may have been taken already.

    Attributes:
        waiting: rows that wait.
        tokens: of all of them at the start.
        left: tokens that wait.
    """

    rows: deque[Row] = field(factory=deque)
    waiting: int = 0
    tokens: int = 0
    left: int = 0


@define(eq=False)
class _CallerQueue:
    """What waits of one caller.

    Attributes:
        waiting: (tokens, order, row) of each row, ascending; 0 for the tokens where batches are filled by age.
        requests: by number, the oldest first.
        deficit: tokens that it may take before others have their turn; below 0: what it had in advance.
    """

    weight: int
    deficit: float
    by_age: bool
    waiting: list[tuple[int, int, Row]] = field(factory=list)
    requests: dict[int, _Request] = field(factory=dict)
    tokens: int = 0

    def add(self, number: int, rows: Sequence[Row], order: int) -> None:
        request = self.requests[number] = _Request(waiting=len(rows))
        entries = []
        for row in sorted(rows, key=lambda each: -each.tokens):
            order += 1
            row.request, row.order = number, order
            request.rows.append(row)
            entries.append((self._key(row), order, row))
            request.left += row.tokens
        request.tokens = request.left
        self.tokens += request.left
        if len(entries) > _FEW:
            self.waiting.extend(entries)
            self.waiting.sort()
        else:
            for entry in entries:
                insort(self.waiting, entry)

    def next_leader(self) -> Row:
        """The longest row of the oldest request."""
        request = next(iter(self.requests.values()))
        while not request.rows[0].order:
            request.rows.popleft()
        return request.rows[0]

    def late(self, now: float, seconds_of: Callable[[int], float]) -> list[Row]:
        late: list[Row] = []
        for request in self.requests.values():
            due = request.rows[0].due
            if now + seconds_of(request.left) <= due < math.inf:
                break  # those that came later are due later
            if due < math.inf and 2 * request.left >= request.tokens:
                late += [row for row in request.rows if row.order]
        return late

    def take(self, low: int, high: int) -> list[Row]:
        """Remove the rows at these positions."""
        rows = [row for _, _, row in self.waiting[low:high]]
        del self.waiting[low:high]
        self._forget(rows)
        return rows

    def discard(self, rows: Sequence[Row]) -> None:
        if len(rows) > _FEW:
            gone = {row.order for row in rows}
            self.waiting = [entry for entry in self.waiting if entry[1] not in gone]
        else:
            for row in rows:
                del self.waiting[self.position(row)]
        self._forget(rows)

    def position(self, row: Row) -> int:
        """Where a row that waits stands."""
        return bisect_left(self.waiting, (self._key(row), row.order))

    def _key(self, row: Row) -> int:
        return 0 if self.by_age else row.tokens

    def _forget(self, rows: Iterable[Row]) -> None:
        for row in rows:
            row.order = 0
            self.tokens -= row.tokens
            request = self.requests[row.request]
            request.waiting -= 1
            request.left -= row.tokens
            if not request.waiting:
                del self.requests[row.request]


class Batcher:
    """Rows that wait for one model, in one tier. Not thread-safe.

    Attributes:
        tokens: that wait.
        rows: that wait.
    """

    def __init__(self, *, by_age: bool = False) -> None:
        """Nothing waits.

        Args:
            by_age: whether batches are filled by age, which is for backends whose padding is free; else by length.
        """
        self._by_age = by_age
        self.tokens = self.rows = 0
        self._callers: OrderedDict[str, _CallerQueue] = OrderedDict()
        self._requests = self._order = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Take the rows of a request."""
        caller = rows[0].caller
        queue = self._callers.get(caller.name)
        if queue is None:
            queue = self._callers[caller.name] = _CallerQueue(caller.weight, 0.0, self._by_age)
        before = queue.tokens
        self._requests += 1
        queue.add(self._requests, rows, self._order)
        self._order += len(rows)
        self.tokens += queue.tokens - before
        self.rows += len(rows)

    def take(self, limits: BatchLimits) -> list[Row]:
        """The next batch within `limits`; empty if nothing waits. Rows that nobody waits for are dropped on the way."""
        while self._callers:
            name, queue = self._next_caller(limits.max_tokens)
            leader = queue.next_leader()
            filling = Filling(limits, leader.tokens, leader.tokens)
            position = queue.position(leader)
            chosen = self._charge(queue, queue.take(*self._span(filling, queue, position, position + 1)))
            self._end_if_empty(name)
            for other, each in tuple(self._callers.items()):
                if filling.rows >= limits.max_rows or filling.tokens >= limits.max_tokens:
                    break
                if each is queue or each.deficit < -_MOST_ADVANCE * limits.max_tokens * each.weight:
                    continue
                position = 0 if self._by_age else bisect_left(each.waiting, (leader.tokens,))
                chosen += self._charge(each, each.take(*self._span(filling, each, position, position)))
                self._end_if_empty(other)
            if wanted := [row for row in chosen if row.is_wanted]:
                return wanted
        return []

    def _span(self, filling: Filling, queue: _CallerQueue, low: int, high: int) -> tuple[int, int]:
        if self._by_age:
            return filling.grow_by_age(queue.waiting, high)
        return filling.grow_by_length(queue.waiting, low, high)

    def take_late(self, now: float, seconds_of: Callable[[int], float]) -> list[Row]:
        """Remove requests that are too late even if they run now; those of which half has run stay.

        Args:
            now: by the clock that stamps rows.
            seconds_of: how long so many tokens take.
        """
        late = [row for queue in self._callers.values() for row in queue.late(now, seconds_of)]
        if late:
            self.discard(late)
        return late

    def discard(self, rows: Iterable[Row]) -> None:
        """Forget those of `rows` that still wait."""
        by_caller: dict[str, list[Row]] = {}
        for row in rows:
            if row.order:
                by_caller.setdefault(row.caller.name, []).append(row)
        for name, gone in by_caller.items():
            self._callers[name].discard(gone)
            self._count(gone)
            self._end_if_empty(name)

    def take_all(self) -> list[Row]:
        """Empty the queue."""
        rows = [row for queue in self._callers.values() for _, _, row in queue.waiting]
        self.discard(rows)
        return rows

    def tokens_until(self, tokens: int, caller: Caller) -> float:
        """Tokens that will have run when so many more of `caller` have, others taking no more than their turns."""
        own = tokens + (self._callers[caller.name].tokens if caller.name in self._callers else 0)
        others = (queue for name, queue in self._callers.items() if name != caller.name)
        return own + sum(min(queue.tokens, own * queue.weight / caller.weight) for queue in others)

    def _next_caller(self, quantum: int) -> tuple[str, _CallerQueue]:
        while True:
            name, queue = next(iter(self._callers.items()))
            if queue.deficit > 0:
                return name, queue
            queue.deficit += quantum * queue.weight
            self._callers.move_to_end(name)

    def _charge(self, queue: _CallerQueue, rows: list[Row]) -> list[Row]:
        queue.deficit -= sum(row.tokens for row in rows)
        self._count(rows)
        return rows

    def _count(self, gone: Sequence[Row]) -> None:
        self.tokens -= sum(row.tokens for row in gone)
        self.rows -= len(gone)

    def _end_if_empty(self, name: str) -> None:
        if not self._callers[name].waiting:
            del self._callers[name]
