"""The line before a model's queue: requests that wait for room, first come, first served, for a bounded time.

Small requests for which there is room need not wait behind a large one: they overtake it until their tokens are a small
share of the queue. So a bulk job in line does not hold up everybody, and its wait grows by that share at most.

Not thread-safe: `Lanes` guards it, as it does the batcher behind it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence

from attrs import define

from provider.engine.batcher import Batcher
from provider.engine.rows import Row
from provider.errors import MOST_RETRY_SECONDS, Overloaded

# The share of the queue's tokens that may overtake a request.
_OVERTAKING = 1 / 32


@define(eq=False)
class WaitingRequest:
    """A request that waits for room in the queue.

    Attributes:
        since: when it came.
        overtaken_before: tokens that had overtaken others until then.
        timer: fires when it has waited for too long.
    """

    rows: Sequence[Row]
    tokens: int
    since: float
    overtaken_before: int
    timer: asyncio.TimerHandle | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether its caller is still there."""
        return any(row.is_wanted for row in self.rows)


class Line:
    """Lets requests into a batcher that holds a bounded number of tokens."""

    def __init__(self, batcher: Batcher, *, max_queue_tokens: int, max_wait_seconds: float) -> None:
        """Nobody waits yet.

        Args:
            batcher: the queue; it takes rows from here only.
            max_queue_tokens: most tokens that it holds. Empty, it takes any request.
            max_wait_seconds: how long a request may stand in line; 0: nobody does.
        """
        self.batcher, self.max_wait_seconds = batcher, max_wait_seconds
        self._max_queue_tokens = max_queue_tokens
        self._waiting: deque[WaitingRequest] = deque()
        self._moved_up: list[WaitingRequest] = []
        self._overtaken = 0

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(each.is_wanted for each in self._waiting)

    def join(self, rows: Sequence[Row], *, now: float, tokens_per_second: float) -> WaitingRequest | None:
        """Let all rows of a request in, or put them in line: None if they are in.

        Args:
            rows: of one request.
            now: the time.
            tokens_per_second: the measured rate; 0 where it is not known yet.

        Raises:
            Overloaded: by that rate there will be no room in time; the error says in how many seconds there will.
        """
        tokens = sum(row.tokens for row in rows)
        if self._try_to_admit(rows, tokens):
            return None
        self.batcher.drop_unwanted()
        self._move_up()
        if self._try_to_admit(rows, tokens):
            return None
        before = self.batcher.tokens + sum(each.tokens for each in self._waiting)
        seconds = self._seconds_until_room(before, tokens, tokens_per_second)
        if seconds > self.max_wait_seconds or not self.max_wait_seconds:
            raise self._overloaded(before, tokens, seconds)
        self._waiting.append(WaitingRequest(rows, tokens, now, self._overtaken))
        return self._waiting[-1]

    def let_in(self) -> list[WaitingRequest]:
        """Admit requests from the front of the line while there is room; called after the batcher gave rows away.

        Returns:
            The requests that left the line since the last call: admitted, or without a caller.
        """
        self._move_up()
        moved_up, self._moved_up = self._moved_up, []
        return moved_up

    def give_up(self, waiting: WaitingRequest, *, tokens_per_second: float) -> Overloaded | None:
        """Take a request that has waited for too long out of the line; None if it is not in it any more."""
        if waiting not in self._waiting:
            return None
        self._waiting.remove(waiting)
        before = self.batcher.tokens
        return self._overloaded(
            before, waiting.tokens, self._seconds_until_room(before, waiting.tokens, tokens_per_second)
        )

    def clear(self) -> list[WaitingRequest]:
        """Empty the line; returns who waited."""
        gone = list(self._waiting)
        self._waiting.clear()
        return gone

    def _move_up(self) -> None:
        while self._waiting and (not self._waiting[0].is_wanted or self._has_room(self._waiting[0].tokens)):
            first = self._waiting.popleft()
            self._moved_up.append(first)
            if first.is_wanted:
                self.batcher.add(first.rows)

    def _try_to_admit(self, rows: Sequence[Row], tokens: int) -> bool:
        if not self._has_room(tokens):
            return False
        if self._waiting:
            overtaking = self._overtaken + tokens - self._waiting[0].overtaken_before
            if overtaking > _OVERTAKING * self._max_queue_tokens:
                return False
            self._overtaken += tokens
        self.batcher.add(rows)
        return True

    def _has_room(self, tokens: int) -> bool:
        return not self.batcher.tokens or self.batcher.tokens + tokens <= self._max_queue_tokens

    def _seconds_until_room(self, before: int, tokens: int, tokens_per_second: float) -> float:
        """Seconds until enough of the tokens `before` a request have been run that its own `tokens` fit."""
        room = max(0, self._max_queue_tokens - tokens)
        return (before - room) / tokens_per_second if tokens_per_second else 0.0

    def _overloaded(self, before: int, tokens: int, seconds: float) -> Overloaded:
        retry = min(MOST_RETRY_SECONDS, max(1, math.ceil(seconds)))
        msg = (
            f"The service is overloaded: {before} tokens wait, this request has {tokens} and the queue holds "
            f"{self._max_queue_tokens}. Please try again in {retry}s."
        )
        return Overloaded(msg, retry_after_seconds=retry)
