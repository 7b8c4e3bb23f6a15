"""Forward passes over batches: a bad row fails alone, and a row that needs all memory runs alone."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from provider.backends import Backend, TokenBatch
from provider.domain import Outputs
from provider.engine.memory import PassLock
from provider.engine.outcome import BatchOutcome
from provider.engine.rows import Row, fail_rows
from provider.errors import NotAvailable


class Passes:
    """Runs batches on a `Backend`, and hands what they come to over to the event loop.

    Attributes:
        failures_in_a_row: passes since the last one that worked; those that only ran out of memory are not counted.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        check: Callable[[Outputs, TokenBatch], None],
        on_pass: Callable[[BatchOutcome], None],
        on_batch: Callable[[BatchOutcome], None],
        on_row: Callable[[Row], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Outcomes go nowhere until `start`.

        Args:
            backend: called from the threads that call `run`.
            check: raises TypeError for outputs that are not the model's.
            on_pass: called on such a thread after each forward pass, before the next one.
            on_batch: called on the event loop's thread after each forward pass, when its rows are settled.
            on_row: called on the event loop's thread for each settled row.
            clock: seconds, monotonic.
        """
        self._backend, self._check, self._clock = backend, check, clock
        self._on_pass, self._on_batch, self._on_row = on_pass, on_batch, on_row
        self._lock = PassLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.failures_in_a_row = 0

    def start(self) -> None:
        """Outcomes go to the running event loop."""
        self._loop = asyncio.get_running_loop()

    def refuse(self, rows: Sequence[Row], error: NotAvailable) -> None:
        """Tell `rows`, which are not run, of `error`."""
        self._tell(fail_rows, rows, error)

    def run_other(self, work: Callable[[], None]) -> None:
        """Call `work` as a pass beside others."""
        with self._lock.shared():
            work()

    def run(self, rows: Sequence[Row], *, alone: bool = False) -> bool:
        """One forward pass. If it fails, its halves are tried, so that one bad row fails alone.

        A row for which memory runs out is tried once more while no other pass runs.

        Args:
            rows: of the batch.
            alone: whether no other pass may run beside it.

        Returns:
            Whether the pass over all of them worked.
        """
        outcome = self._pass(rows, alone=alone)
        is_final = outcome.error is None or (len(rows) == 1 and (alone or not outcome.ran_out))
        if outcome.error is None:
            self.failures_in_a_row = 0
        elif is_final or not outcome.ran_out:
            self.failures_in_a_row += 1
        self._on_pass(outcome)
        self._hand_over(outcome, is_final=is_final)
        if is_final:
            return outcome.error is None
        middle = len(rows) // 2
        for half in (rows[:middle], rows[middle:]):
            if wanted := [row for row in half if row.is_wanted]:
                self.run(wanted, alone=outcome.ran_out and len(rows) == 1)
        return False

    def _pass(self, rows: Sequence[Row], *, alone: bool) -> BatchOutcome:
        outputs: Outputs | None = None
        error: Exception | None = None
        with self._lock.alone() if alone else self._lock.shared():
            started = self._clock()
            try:
                batch = TokenBatch.of([row.features for row in rows])
                outputs = self._backend.run(batch)
                self._check(outputs, batch)
            except MemoryError as exc:
                # A new one: the frames of this one's traceback hold what filled the memory.
                outputs, error = None, MemoryError(str(exc))
            except BaseException as exc:  # noqa: BLE001 - whatever a backend raises, the lane lives on
                outputs, error = None, exc if isinstance(exc, Exception) else RuntimeError(repr(exc))
            return BatchOutcome(rows, outputs, error, started, self._clock() - started)

    def _hand_over(self, outcome: BatchOutcome, *, is_final: bool) -> None:
        self._tell(self._settle, outcome, is_final)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        # The loop may be closed already, when the process was told to end at once: then nobody waits for the outcome.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(what, *arguments)

    def _settle(self, outcome: BatchOutcome, is_final: bool) -> None:  # noqa: FBT001 - call_soon_threadsafe takes no keywords
        # Callers first: whatever a listener does, nobody is left waiting.
        if is_final:
            outcome.settle()
            for row in outcome.rows:
                self._on_row(row)
        self._on_batch(outcome)
