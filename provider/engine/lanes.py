"""The threads that run forward passes: one shared queue, one thread a lane, one backend shared by all.

A lane owns its thread and calls the backend from nowhere else. Outcomes are handed to the event loop, once a batch.
While nothing waits, lanes do other work, such as passes that measure; their number and batches may change then.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from provider.backends import Backend, TokenBatch
from provider.domain import Caller, Outputs
from provider.engine.idle import IdleTask, IdleWork
from provider.engine.limits import BatchLimits
from provider.engine.outcome import BatchOutcome
from provider.engine.passes import Passes
from provider.engine.rows import Row, fail_rows
from provider.engine.scheduler import Scheduler
from provider.errors import ModelStalled, ShuttingDown

_JOIN_SECONDS = 2.0
# How often lanes see whether they have waited long enough for one that is in a pass.
_LOOK_SECONDS = 1.0


class Lanes:
    """Runs a `Scheduler` on a `Backend`. `submit` and `close` are called on the event loop's thread."""

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        *,
        check: Callable[[Outputs, TokenBatch], None],
        count: int,
        name: str,
        on_batch: Callable[[BatchOutcome], None],
        on_row: Callable[[Row], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing runs until `start`.

        Args:
            backend: called from the lanes' threads.
            scheduler: of as many lanes; guarded by this object from now on.
            check: raises TypeError for outputs that are not the model's.
            count: number of lanes; 1 unless the backend is `concurrent`.
            name: of the model, for thread names.
            on_batch: called on the event loop's thread after each forward pass, when its rows are settled.
            on_row: called on the event loop's thread for each settled row (the cache keeps outputs).
            clock: seconds, monotonic.
        """
        self._scheduler = scheduler
        self._passes = Passes(backend, check=check, on_pass=self._ended, on_batch=on_batch, on_row=on_row, clock=clock)
        self._changed = threading.Condition()
        self._closed = False
        self._running: dict[int, Sequence[Row]] = {}
        self._idle = IdleWork()
        self._name, self._count = name, count
        self._threads: dict[int, threading.Thread] = {}

    def start(self) -> None:
        """Start the threads; outcomes go to the running event loop."""
        self._passes.start()
        with self._changed:
            self._start_threads(self._count)

    def _start_threads(self, count: int) -> None:
        for lane in range(count):
            if lane not in self._threads:
                # Daemons: a forward pass that never returns must not keep the process from ending.
                thread = threading.Thread(target=self._run, args=(lane,), name=f"{self._name} lane {lane}", daemon=True)
                self._threads[lane] = thread
                thread.start()

    @property
    def count(self) -> int:
        """Forward passes at a time."""
        return self._count

    @property
    def failures_in_a_row(self) -> int:
        """See `Passes`."""
        return self._passes.failures_in_a_row

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self._scheduler.rows

    @property
    def waiting_tokens(self) -> int:
        """Tokens in the queue."""
        return self._scheduler.tokens

    @property
    def batch_tokens(self) -> int:
        """Most tokens of a batch at present: fewer than at the start when memory has run out."""
        return self._scheduler.limits.max_tokens

    @property
    def expected_seconds(self) -> float:
        """How long all that waits will take at the measured rate; 0 as long as that is not known."""
        with self._changed:
            return self._scheduler.expected_seconds

    @property
    def tokens_per_second(self) -> float:
        """The measured rate of all lanes, each as if it were busy; 0 as long as nothing has been measured."""
        with self._changed:
            return self._scheduler.throughput.tokens_per_second

    def wait_seconds(self, caller: Caller) -> float:
        """How long a small request of `caller` would wait at the measured rate; 0 as long as that is not known."""
        with self._changed:
            return self._scheduler.wait_seconds(caller)

    def stalled(self, seconds: float) -> int:
        """Lanes whose forward pass has been running for longer than `seconds`."""
        with self._changed:
            return len(self._stalled(seconds))

    def _stalled(self, seconds: float) -> list[int]:
        """Not those that were only started to measure."""
        return [lane for lane in self._scheduler.throughput.stalled(seconds) if lane < self._count]

    def fail_stalled(self, seconds: float) -> bool:
        """Give up what stalled lanes run or comes too late, and all if no other is left; whether no lane is left."""
        with self._changed:
            if self._idle.give_up(self._scheduler.throughput.stalled(seconds), ModelStalled()):
                self._changed.notify_all()
            stalled = self._stalled(seconds)
            left = [row for lane in stalled for row in self._running[lane]]
            is_none_left = len(stalled) == self._count
            if is_none_left:
                left += self._scheduler.take_all()
            self._refuse_late()
        fail_rows(left, ModelStalled())
        return is_none_left

    def check_room(self, tokens: int, caller: Caller, *, most: int | None = None) -> None:
        """See that a request of so many tokens at least, and `most` at most, may be let in.

        Raises:
            Overloaded: it would be refused.
        """
        with self._changed:
            self._scheduler.check(tokens, caller, most=most)

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue the rows of a request, all or none.

        Raises:
            Overloaded: they would not be answered in time, by the measured rate.
            ShuttingDown: the lanes are closed.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDown
            self._scheduler.add(rows)
            for row in rows:
                row.withdraw = self._withdraw
            self._changed.notify_all()

    def run_idle(
        self,
        work: Sequence[Callable[[], object]],
        *,
        alone: bool,
        drains: bool = False,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> float:
        """Let as many lanes run `work` side by side, once nothing waits. Blocks; for threads other than the lanes'.

        Rows that come meanwhile go to the other lanes; with `alone` they wait until it has ended.

        Args:
            work: one function a lane; more than there are lanes is for `alone`.
            alone: whether no lane runs anything else meanwhile.
            drains: whether it comes before rows that wait, once the passes under way have ended.
            before: called before all of it, while no pass runs; for `alone`.
            after: called after all of it, while no pass runs; for `alone`.

        Returns:
            What it took, in seconds.

        Raises:
            ShuttingDown: the lanes are closed.
            ModelStalled: it hangs, and was given up; see `fail_stalled`.
            Exception: what one of the functions raised.
        """
        with self._changed:
            if self._closed:
                raise ShuttingDown
            self._start_threads(len(work))
            task = IdleTask(work, alone, before, after, drains)
            self._idle.put(task)
            self._changed.notify_all()
            self._changed.wait_for(lambda: task.is_done or self._closed)
            if not task.is_done:
                raise ShuttingDown
        if task.error is not None:
            raise task.error
        return task.seconds

    def resize(self, count: int, limits: BatchLimits) -> None:
        """Have `count` lanes and such batches from now on; further threads end. Within `run_idle`, `alone`."""
        with self._changed:
            if not self._closed:
                self._scheduler.resize(count, limits)
                self._idle.release()
                self._use(count)

    def change_count(self, count: int) -> None:
        """Have `count` lanes from now on, each as fast as those before. From any thread; passes under way go on."""
        with self._changed:
            if not self._closed and count != self._count:
                self._scheduler.change_lanes(count)
                self._use(count)

    def _use(self, count: int) -> None:
        self._count = count
        self._start_threads(count)
        self._changed.notify_all()

    def _withdraw(self, rows: Sequence[Row]) -> None:
        with self._changed:
            self._scheduler.discard(rows)

    async def close(self) -> bool:
        """Fail what still waits, let running forward passes end, and stop the threads.

        Returns:
            Whether every thread has ended. One that has not after 2 s is left behind, and its callers are told.
        """
        with self._changed:
            self._closed = True
            left, threads = self._scheduler.take_all(), list(self._threads.values())
            self._changed.notify_all()
        fail_rows(left, ShuttingDown())
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread.is_alive():
                await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        # The outcomes that the threads handed over come first.
        await asyncio.sleep(0)
        for rows in tuple(self._running.values()):
            fail_rows(rows, ShuttingDown())
        return not any(thread.is_alive() for thread in threads)

    def _run(self, lane: int) -> None:
        throughput = self._scheduler.throughput
        while (taken := self._take(lane)) is not None:
            rows, work, is_full = taken
            worked = False
            try:
                if work is None:
                    worked = self._passes.run(rows)
                else:
                    self._passes.run_other(work)
            finally:
                with self._changed:
                    throughput.ended(lane, is_full=is_full, worked=worked)
                    del self._running[lane]
                    if self._idle.ended(lane, is_quiet=not self._running):
                        self._changed.notify_all()

    def _take(self, lane: int) -> tuple[Sequence[Row], Callable[[], None] | None, bool] | None:
        """What a lane does next, waited for: rows and whether more are left, or other work; None: its thread ends."""
        went_on = True
        with self._changed:
            while True:
                work = self._idle.next_of(lane)
                is_draining = self._idle.drains
                is_serving = lane < self._count and not self._idle.is_alone and not is_draining
                if is_serving:
                    self._refuse_late()
                rows = self._scheduler.take(lane) if is_serving and work is None else []
                if rows or work is not None:
                    self._scheduler.throughput.began(lane, sum(row.tokens for row in rows), went_on=went_on)
                    self._running[lane] = rows
                    return rows, work, self._scheduler.rows > 0
                if self._closed or (lane >= self._count and not self._idle.wants(lane)):
                    del self._threads[lane]
                    return None
                went_on = False
                self._idle.waits(lane)
                is_next = is_draining or not self._scheduler.rows
                if is_next and self._idle.begin(is_quiet=not self._running):
                    self._changed.notify_all()
                else:
                    self._changed.wait(_LOOK_SECONDS if is_draining else None)

    def _refuse_late(self) -> None:
        if late := self._scheduler.take_late():
            self._passes.refuse(late, self._scheduler.too_late(late))

    def _ended(self, outcome: BatchOutcome) -> None:
        # Nearly every pass: it need not wait for the lock. One that is missed while another runs out is no loss.
        if outcome.error is None and self._scheduler.is_full_size:
            return
        with self._changed:
            self._scheduler.ended(outcome)
