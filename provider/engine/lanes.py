"""The threads that run forward passes: one shared queue, one thread a lane, one backend shared by all.

A lane owns its thread and calls the backend from nowhere else. Outcomes are handed to the event loop, once a batch.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from attrs import frozen

from provider.backends import Backend, TokenBatch
from provider.domain import Vectors
from provider.engine.hooks import RequestWaited
from provider.engine.line import Line, WaitingRequest
from provider.engine.rows import Row
from provider.errors import EmbeddingFailed, NotAvailable, ShuttingDown

_JOIN_SECONDS = 5.0


@frozen(eq=False)
class BatchOutcome:
    """What one forward pass came to.

    Attributes:
        vectors: (rows, dimension) float32; None if it failed.
        error: why, if it failed.
        queue_seconds: how long the oldest of its rows had waited.
    """

    rows: Sequence[Row]
    vectors: Vectors | None
    error: Exception | None
    queue_seconds: float
    forward_seconds: float

    @property
    def tokens(self) -> int:
        """Tokens of its rows, padding not counted."""
        return sum(row.tokens for row in self.rows)


class Lanes:
    """Runs a `Batcher` on a `Backend`. `submit`, `drain` and `close` are called on the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        line: Line,
        *,
        dimension: int,
        count: int,
        name: str,
        on_batch: Callable[[BatchOutcome], None],
        on_row: Callable[[Row], None] = lambda _: None,
        on_waited: Callable[[RequestWaited], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs until `start`.

        Args:
            backend: called from the lanes' threads.
            line: before the batcher; both are guarded by this object from now on.
            dimension: width that the backend's vectors must have.
            count: number of lanes; 1 unless the backend is `concurrent`.
            name: of the model, for thread names.
            on_batch: called on the event loop's thread after each forward pass, when its rows are settled.
            on_row: called on the event loop's thread for each settled row (the cache keeps vectors).
            on_waited: called on the event loop's thread for each request that stood in line.
            clock: seconds, monotonic.
        """
        self._backend, self._line, self._dimension = backend, line, dimension
        self._batcher = line.batcher
        self._on_batch, self._on_row, self._on_waited, self._clock = on_batch, on_row, on_waited, clock
        self._changed = threading.Condition()
        self._closed = self._is_draining = False
        self._busy_since: dict[int, float] = {}
        self._running: dict[int, Sequence[Row]] = {}
        self._tokens_per_second = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failures_in_a_row = 0
        # Daemons: a forward pass that never returns must not keep the process from ending.
        self._threads = [
            threading.Thread(target=self._run, args=(lane,), name=f"{name} lane {lane}", daemon=True)
            for lane in range(count)
        ]

    def start(self) -> None:
        """Start the threads; outcomes go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self._batcher.rows

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue."""
        return self._batcher.tokens

    @property
    def requests_in_line(self) -> int:
        """Requests for which the queue has no room yet."""
        with self._changed:
            return len(self._line)

    @property
    def longest_forward_seconds(self) -> float:
        """For how long the slowest forward pass under way has been running; 0 if none is."""
        # A lane may finish during the loop; a copy of the values cannot change under it.
        since = tuple(self._busy_since.values())
        return self._clock() - min(since) if since else 0.0

    def submit(self, rows: Sequence[Row]) -> bool:
        """Queue all rows, or none; without room they wait in line, and fail with Overloaded after a while.

        Returns:
            Whether they are in the queue; False: in line.

        Raises:
            Overloaded: there will be no room in time, by the measured rate.
            ShuttingDown: the lanes are closed, or draining and without room.
        """
        with self._changed:
            if self._closed:
                raise _shutting_down()
            now = self._clock()
            for row in rows:
                row.enqueued_at = now
            waiting = self._line.join(rows, now=now, tokens_per_second=self._tokens_per_second)
            self._changed.notify(len(self._threads))
        if waiting is not None:
            waiting.timer = asyncio.get_running_loop().call_later(self._line.max_wait_seconds, self._give_up, waiting)
            if self._is_draining:
                self.drain()
        return waiting is None

    def drain(self) -> None:
        """Refuse requests in line from now on; rows in the queue are still run."""
        self._is_draining = True
        with self._changed:
            gone = self._line.clear()
        for waiting in gone:
            self._end_wait(waiting, _shutting_down())

    async def close(self) -> bool:
        """Fail what still waits, let running forward passes end, and stop the threads.

        Returns:
            Whether every thread has ended. One that has not after 5 s is left behind, and its callers are told.
        """
        with self._changed:
            self._closed = True
            # Before the queue, so that nobody moves up into it.
            gone = self._line.clear()
            left = self._batcher.take_all()
            self._changed.notify_all()
        for waiting in gone:
            self._end_wait(waiting, _shutting_down())
        _abandon(left)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        # The outcomes that the threads handed over come first.
        await asyncio.sleep(0)
        for rows in tuple(self._running.values()):
            _abandon(rows)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, lane: int) -> None:
        while True:
            with self._changed:
                while not (rows := self._take()):
                    if self._closed:
                        return
                    self._changed.wait()
                self._busy_since[lane], self._running[lane] = self._clock(), rows
                is_full = self._batcher.rows > 0
            try:
                self._embed(rows, is_full=is_full)
            finally:
                del self._busy_since[lane], self._running[lane]

    def _take(self) -> list[Row]:
        """The next batch; requests in line that now fit are admitted."""
        rows = self._batcher.take()
        moved_up = self._line.let_in()
        if moved_up:
            self._call(self._end_waits, moved_up)
            self._changed.notify(len(self._threads))
        return rows or self._batcher.take()

    def _end_waits(self, moved_up: Sequence[WaitingRequest]) -> None:
        for waiting in moved_up:
            self._end_wait(waiting, None)

    def _give_up(self, waiting: WaitingRequest) -> None:
        with self._changed:
            error = self._line.give_up(waiting, tokens_per_second=self._tokens_per_second)
            moved_up = self._line.let_in()
            self._changed.notify(len(self._threads))
        if error is not None:
            self._end_wait(waiting, error)
        self._end_waits(moved_up)

    def _end_wait(self, waiting: WaitingRequest, error: NotAvailable | None) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        outcome: Literal["admitted", "refused", "left"] = "left"
        if waiting.is_wanted:
            outcome = "admitted" if error is None else "refused"
        # Callers first, as in `_settle`.
        for row in waiting.rows if error is not None else ():
            row.settle(error=error)
        self._on_waited(RequestWaited(self._clock() - waiting.since, outcome))

    def _embed(self, rows: Sequence[Row], *, is_full: bool) -> None:
        """One forward pass. If it fails, its halves are tried, so that one bad row fails alone.

        Args:
            rows: of the batch.
            is_full: whether more rows waited than it could take.
        """
        started = self._clock()
        vectors, error = None, None
        try:
            vectors = self._checked(
                self._backend.embed(TokenBatch.of_rows([row.ids for row in rows], [row.skip for row in rows])),
                len(rows),
            )
        except BaseException as exc:  # noqa: BLE001 - whatever a backend raises, the lane lives on
            error = exc if isinstance(exc, Exception) else RuntimeError(repr(exc))
        now = self._clock()
        self.failures_in_a_row = 0 if error is None else self.failures_in_a_row + 1
        waited = started - min(row.enqueued_at for row in rows)
        outcome = BatchOutcome(rows, vectors, error, waited, now - started)
        is_final = error is None or len(rows) == 1
        if error is None:
            self._learn_rate(outcome, is_full=is_full)
        self._hand_over(outcome, started, is_final=is_final)
        if not is_final:
            middle = len(rows) // 2
            for half in (rows[:middle], rows[middle:]):
                if wanted := [row for row in half if row.is_wanted]:
                    self._embed(wanted, is_full=False)

    def _checked(self, vectors: Vectors, rows: int) -> Vectors:
        expected = (rows, self._dimension)
        if not isinstance(vectors, np.ndarray) or vectors.shape != expected or vectors.dtype != np.float32:
            got = f"{vectors.dtype} {vectors.shape}" if isinstance(vectors, np.ndarray) else type(vectors).__name__
            msg = f"the backend answered {got}, expected float32 {expected}"
            raise TypeError(msg)
        return vectors

    def _learn_rate(self, outcome: BatchOutcome, *, is_full: bool) -> None:
        # Two lanes may write at once; a lost update of an estimate does no harm.
        rate = outcome.tokens / max(outcome.forward_seconds, 1e-6) * len(self._threads)
        # The rate is asked for when much waits. A small batch only shows that the model is no slower than this.
        if not is_full and rate < self._tokens_per_second:
            return
        self._tokens_per_second = 0.8 * self._tokens_per_second + 0.2 * rate if self._tokens_per_second else rate

    def _hand_over(self, outcome: BatchOutcome, started: float, *, is_final: bool) -> None:
        self._call(self._settle, outcome, started, is_final)

    def _call(self, what: Callable[..., None], *args: Any) -> None:  # noqa: ANN401 - what is called knows them
        # The loop may be closed already, when the process was told to end at once: then nobody waits for the outcome.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(what, *args)

    def _settle(self, outcome: BatchOutcome, started: float, is_final: bool) -> None:  # noqa: FBT001 - call_soon_threadsafe takes no keywords
        # Callers first: whatever a listener does, nobody is left waiting.
        if is_final:
            for i, row in enumerate(outcome.rows):
                row.queue_seconds = max(0.0, started - row.enqueued_at)
                row.forward_seconds = outcome.forward_seconds
                if outcome.vectors is not None:
                    row.settle(vector=outcome.vectors[i])
                else:
                    row.settle(error=_failure(outcome.error))
            for row in outcome.rows:
                self._on_row(row)
        self._on_batch(outcome)


def _failure(cause: Exception | None) -> EmbeddingFailed:
    failure = EmbeddingFailed(f"the forward pass failed ({type(cause).__name__})")
    failure.__cause__ = cause
    return failure


def _abandon(rows: Sequence[Row]) -> None:
    for row in rows:
        if not row.is_settled:
            row.settle(error=_shutting_down())


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The service is shutting down. Please try again later.", retry_after_seconds=5)
