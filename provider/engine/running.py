"""A loaded model at work: its parts, the lanes that run them, and what is told of each forward pass."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial

from attrs import evolve

from provider.backends import FollowsLanes
from provider.engine.description import tuning_of
from provider.engine.hooks import BatchDone, ModelTuned
from provider.engine.lanes import Lanes
from provider.engine.loading import ModelParts, in_daemon_thread
from provider.engine.outcome import BatchOutcome
from provider.engine.probing import probe_row
from provider.engine.rows import Row, Ticket
from provider.engine.scheduler import Scheduler
from provider.engine.settling import settle
from provider.engine.surroundings import Surroundings
from provider.engine.verdict import Verdict, Verify
from provider.errors import ShuttingDown
from provider.settings import ModelSettings
from provider.tasks import check_outputs

_MEMORY_RAN_OUT = (
    "memory ran out in a forward pass: batches were halved until they fit, and grow back slowly (batch_tokens); set "
    "model.max_batch_tokens lower, or leave more memory free"
)

# How long `close` waits for what still uses the backend. If a process ends while a thread is in C++ code of a library,
# that library aborts it.
_END_SECONDS = 2.0


class RunningModel:
    """The parts of a model and its lanes, until `close`. Used on the event loop's thread only.

    Attributes:
        parts: the backend among them, which belongs to this object; they change when the model is tuned.
        lanes: they run `parts.backend`.
    """

    def __init__(
        self,
        parts: ModelParts,
        around: Surroundings,
        *,
        name: str,
        notice: Callable[[str], None],
        on_failures: Callable[[int], None],
    ) -> None:
        """The lanes start at once.

        Args:
            parts: as loaded.
            around: what the model shares with others.
            name: of the model.
            notice: tells an operator a sentence.
            on_failures: called after each forward pass with the number of those that failed in a row.
        """
        self.parts = parts
        queue, self._name = around.queue, name
        self._stall_seconds = queue.stall_seconds
        self._hooks, self._notice, self._on_failures = around.hooks, notice, on_failures
        # Held by a thread that measures or verifies.
        self._used = threading.Lock()
        self.lanes = Lanes(
            parts.backend,
            Scheduler(
                parts.limits,
                max_tokens=queue.max_tokens,
                max_wait_seconds=queue.max_wait_seconds,
                lanes=parts.plan.lanes,
                clock=around.clock,
            ),
            check=partial(check_outputs, parts.spec.tasks),
            count=parts.plan.lanes,
            name=name,
            on_batch=self._batch_done,
            on_row=around.on_row,
            clock=around.clock,
        )
        self.lanes.start()
        if isinstance(parts.backend, FollowsLanes):
            parts.backend.follow(self.lanes)

    @property
    def stalled_lanes(self) -> int:
        """Lanes that hang in a forward pass."""
        return self.lanes.stalled(self._stall_seconds)

    @property
    def is_stalled(self) -> bool:
        """Whether no lane is left."""
        return self.stalled_lanes == self.lanes.count

    @property
    def stall(self) -> str | None:
        """How many lanes hang, in words for an operator; None if all work."""
        if not (stalled := self.stalled_lanes):
            return None
        return f"{stalled} of {self.lanes.count} lanes: a forward pass runs for more than {self._stall_seconds} s"

    def fail_stalled(self) -> bool:
        """Give up what hangs; see `Lanes.fail_stalled`. Returns whether no lane is left."""
        return self.lanes.fail_stalled(self._stall_seconds)

    async def run(self, rows: Sequence[Row]) -> None:
        """Queue the rows and wait for their outcomes; the first error is raised."""
        ticket = Ticket(rows)
        self.lanes.submit(rows)
        await ticket.wait()

    async def probe(self) -> None:
        """Run a harmless text."""
        await self.run([probe_row(self.parts)])

    async def settle(self) -> None:
        """Become what is best here, while requests are served; see `settling`. Whatever fails, the model serves on."""
        before, problem = self.parts, None

        def work() -> ModelParts:
            with self._used:
                return settle(self.parts, self.lanes)

        try:
            self.parts = await in_daemon_thread(f"tune {self._name}", work)
        except ShuttingDown:
            return
        except Exception as exc:  # noqa: BLE001 - what a backend raises is no reason to end
            problem = f"{type(exc).__name__}: {exc}"
            self.parts = evolve(self.parts, to_tune=None)
        if before.tuned is self.parts.tuned and problem is None:
            return
        plan, limits = self.parts.plan, self.parts.limits
        facts = {"lanes": plan.lanes, "threads_per_lane": plan.threads, "batch_tokens": limits.max_tokens}
        self._hooks(ModelTuned(self._name, facts | tuning_of(self.parts), problem))

    async def verify(self, verify: Verify, settings: ModelSettings) -> Verdict:
        """Compare with the reference while the lanes are idle: nobody is let in before the model is ready."""

        def work() -> Verdict:
            with self._used:
                return verify(self.parts, settings)

        return await in_daemon_thread(f"verify {self._name}", work)

    async def close(self) -> None:
        """Stop the lanes and free the model; work that still waits fails with ShuttingDown."""
        # A lane that is stuck in a forward pass, or other work, still uses the backend: the process takes both.
        if await self.lanes.close() and await asyncio.to_thread(self._used.acquire, timeout=_END_SECONDS):
            try:
                await in_daemon_thread(f"close {self._name}", self.parts.backend.close)
            except Exception as exc:  # noqa: BLE001 - whatever a backend raises, the others go on
                self._notice(f"closing its backend failed: {type(exc).__name__}: {exc}")
            finally:
                self._used.release()

    def _batch_done(self, outcome: BatchOutcome) -> None:
        error = type(outcome.error).__name__ if outcome.error is not None else None
        if outcome.ran_out:
            self._notice(_MEMORY_RAN_OUT)
        tokens = outcome.tokens
        padding = self.parts.limits.cost([row.tokens for row in outcome.rows]) - tokens
        self._hooks(
            BatchDone(
                self._name, len(outcome.rows), tokens, outcome.queue_seconds, outcome.forward_seconds, error, padding
            )
        )
        self._on_failures(self.lanes.failures_in_a_row)
