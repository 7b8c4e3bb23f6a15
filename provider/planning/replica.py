"""A simulated server: the scheduler that serves, on cores and passes that only take time."""

import random
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from attrs import define, field

from provider.domain import ANONYMOUS, Caller, Features
from provider.engine.rows import Row
from provider.engine.scheduler import Scheduler
from provider.errors import Overloaded
from provider.planning.events import Cores, Events, Thread
from provider.planning.profile import CostProfile
from provider.settings import QueueSettings

# Of a request's cost on the event loop, so much comes before its rows are queued; the rest writes the answer.
_BEFORE = 0.7
# A refusal is written before anything is tokenised.
_REFUSAL = 0.5

Done = Callable[[bool], None]
"""Called with whether a request was answered; False: it was refused."""


@define(eq=False)
class _Request:
    """Under way.

    Attributes:
        left: rows without an outcome.
    """

    texts: int
    done: Done
    left: int


@define(eq=False)
class _Row(Row):
    """A row whose caller never leaves."""

    asked: _Request | None = field(default=None, kw_only=True)

    @property
    def is_wanted(self) -> bool:
        return True


@lru_cache(4096)
def _features(tokens: int) -> Features:
    return Features(np.zeros(tokens, np.int32))


class Replica:
    """One process on `cores`; the event loop is one thread, each lane another.

    Attributes:
        under_way: requests that were neither answered nor refused yet.
        answered_tokens: tokens of answered requests.
    """

    def __init__(
        self, events: Events, profile: CostProfile, cores: Cores, *, lanes: int, queue: QueueSettings | None = None
    ) -> None:
        """It serves at once.

        Args:
            events: the clock.
            profile: what things cost.
            cores: of its machine; forward passes on an accelerator take a device of the replica's own instead.
            lanes: forward passes at a time.
            queue: limits of the queue; None for the defaults.
        """
        queue = queue or QueueSettings()
        self._profile = profile
        self._device, self._threads = (cores, profile.threads) if profile.is_cpu else (Cores(events, 1), 1)
        self._loop = Thread(cores)
        self._scheduler = Scheduler(
            profile.limits,
            max_tokens=queue.max_tokens,
            max_wait_seconds=queue.max_wait_seconds,
            lanes=lanes,
            clock=events,
        )
        self._idle = set(range(lanes))
        # A simulation gives the same each time.
        self._chance = random.Random(0)  # noqa: S311 - no secret
        self.under_way = self.answered_tokens = 0

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue."""
        return self._scheduler.tokens

    def ask(self, lengths: Sequence[int], done: Done, *, texts: int | None = None, caller: Caller = ANONYMOUS) -> None:
        """A request comes in.

        Args:
            lengths: tokens of each text that the cache does not have.
            done: called when the answer is written.
            texts: of the request; None: the cache has none of them.
            caller: who asks.
        """
        self.under_way += 1
        request = _Request(len(lengths) if texts is None else texts, done, len(lengths))
        self._loop.run(
            _BEFORE * self._profile.server.seconds(request.texts), lambda: self._admit(request, lengths, caller)
        )

    def _admit(self, request: _Request, lengths: Sequence[int], caller: Caller) -> None:
        if not lengths:
            self._write(request)
            return
        try:
            self._scheduler.add([_Row(_features(each), caller=caller, asked=request) for each in lengths])
        except Overloaded:
            self._refuse(request)
            return
        for lane in sorted(self._idle):
            self._take(lane, went_on=False)

    def _refuse(self, request: _Request) -> None:
        self._loop.run(_REFUSAL * self._profile.server.request, lambda: self._end(request, is_answered=False))

    def _take(self, lane: int, *, went_on: bool) -> None:
        """What `Lanes` does between two passes."""
        late = {row.asked for row in self._scheduler.take_late() if isinstance(row, _Row) and row.asked is not None}
        for request in late:
            self._refuse(request)
        rows = self._scheduler.take(lane)
        if not rows:
            self._idle.add(lane)
            return
        self._idle.discard(lane)
        self._scheduler.throughput.began(lane, sum(row.tokens for row in rows), went_on=went_on)
        is_full = self._scheduler.rows > 0
        seconds = self._profile.pass_seconds([row.tokens for row in rows])
        if spread := self._profile.spread:
            # Passes that all took the same would go in step for ever, which none do.
            seconds *= self._chance.lognormvariate(-spread * spread / 2, spread)
        self._device.run(seconds, lambda: self._ended(lane, rows, is_full=is_full), cores=self._threads)

    def _ended(self, lane: int, rows: Sequence[Row], *, is_full: bool) -> None:
        self._scheduler.throughput.ended(lane, is_full=is_full)
        for row in rows:
            assert isinstance(row, _Row)  # noqa: S101 - no other rows are queued
            assert row.asked is not None  # noqa: S101
            self.answered_tokens += row.tokens
            row.asked.left -= 1
            if not row.asked.left:
                self._write(row.asked)
        self._take(lane, went_on=True)

    def _write(self, request: _Request) -> None:
        seconds = (1 - _BEFORE) * self._profile.server.seconds(request.texts)
        self._loop.run(seconds, lambda: self._end(request, is_answered=True))

    def _end(self, request: _Request, *, is_answered: bool) -> None:
        self.under_way -= 1
        request.done(is_answered)
