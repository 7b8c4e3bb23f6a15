"""One model's life: found, loaded, warmed up, watched, closed."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from provider.domain import ALONE, Worker
from provider.engine.batcher import Batcher
from provider.engine.hooks import (
    BatchDone,
    DownloadChanged,
    Hook,
    ModelChanged,
    ModelNoticed,
    ModelState,
    ModelVerified,
)
from provider.engine.lanes import BatchOutcome, Lanes
from provider.engine.line import Line
from provider.engine.loading import FoundModel, ModelParts, find_model, in_daemon_thread, load_parts
from provider.engine.probing import Prober
from provider.engine.rows import Row, Ticket
from provider.engine.verification import Report, check_passed, verify_briefly
from provider.errors import ModelFailed, ModelLoading, ProviderError, ShuttingDown
from provider.settings import HubSettings, ModelSettings, QueueSettings

# A lazy model that could not be loaded is tried again after so long, when someone asks for it.
_RETRY_SECONDS = 59
_PROBE_TEXT = "The quick brown fox jumps over the lazy dog."


class ModelRuntime:
    """One configured model. Everything but the loading itself happens on the event loop's thread."""

    def __init__(
        self,
        settings: ModelSettings,
        *,
        hub: HubSettings,
        queue: QueueSettings,
        hooks: Hook,
        on_row: Callable[[Row], None],
        one_at_a_time: asyncio.Lock,
        worker: Worker = ALONE,
        show_progress: bool = False,
        clock: Callable[[], float] = time.monotonic,
        probe_seconds: float = 5.0,
    ) -> None:
        """Nothing is read until `start_loading`.

        Args:
            settings: of the model.
            hub: where to download from.
            queue: how much may wait.
            hooks: told of every change of state, download and batch.
            on_row: called for each row that has an outcome (the cache keeps vectors).
            one_at_a_time: held while loading, shared by all models: two at once would only fight for the disk.
            worker: whose share of the machine it runs on.
            show_progress: whether a download draws a progress bar.
            clock: seconds, monotonic.
            probe_seconds: pause between two probes of a model whose forward passes fail.
        """
        self.settings, self.name = settings, settings.served_name
        self.state = ModelState.WAITING
        self.failure: ProviderError | None = None
        self.verified: Report | None = None
        self.lanes: Lanes | None = None
        self.created = int(time.time())
        self._hub, self._queue, self._hooks, self._on_row = hub, queue, hooks, on_row
        self._worker = worker
        self._one_at_a_time, self._show_progress = one_at_a_time, show_progress
        self._clock = clock
        self._since = clock()
        self._parts: ModelParts | None = None
        self._noticed: list[str] = []
        self._loading: asyncio.Task[None] | None = None
        self.prober = Prober(self._embed_probe, name=self.name, pause_seconds=probe_seconds)
        self._verifying = threading.Lock()

    @property
    def loaded(self) -> ModelParts | None:
        """The model's parts while it is ready, else None."""
        return self._parts if self.state is ModelState.READY else None

    @property
    def notices(self) -> tuple[str, ...]:
        """What an operator should know of the loaded model: from its files, and from requests since."""
        return (*(self._parts.notices if self._parts else ()), *self._noticed)

    def notice(self, text: str) -> None:
        """Tell an operator `text`, which a request showed; once."""
        if text not in self._noticed:
            self._noticed.append(text)
            self._hooks(ModelNoticed(self.name, text))

    @property
    def problem(self) -> str | None:
        """Why the model cannot be relied on right now, in words for an operator; None if it can."""
        if self.loaded is None or self.lanes is None:
            return self.failure.message if self.failure is not None else f"{self.state}"
        if self.prober.has_failed:
            return "forward passes fail"
        busy = self.lanes.longest_forward_seconds
        return f"a forward pass has been running for {busy:.0f} s" if busy > self._queue.stall_seconds else None

    @property
    def waiting(self) -> tuple[int, int]:
        """Rows and tokens in the queue."""
        return (self.lanes.waiting_rows, self.lanes.waiting_tokens) if self.lanes else (0, 0)

    def start_loading(self) -> "asyncio.Task[None]":
        """Load in the background; the same task for everyone who asks. It never raises: see `state` and `failure`."""
        if self._loading is None:
            # A context of its own: what loading logs does not belong to the request that happened to start it.
            context = contextvars.Context()
            self._loading = asyncio.create_task(self._load(), name=f"load {self.name}", context=context)
        return self._loading

    async def ready(self) -> ModelParts:
        """The model's parts. A lazy model is loaded now, and waited for.

        Raises:
            ModelLoading: it is on its way and not lazy: come back later.
            ModelFailed: it could not be loaded.
            ShuttingDown: it is closed.
        """
        if self.loaded is None and self.settings.lazy and self.state is not ModelState.CLOSED:
            if self.state is ModelState.FAILED and self._clock() - self._since >= _RETRY_SECONDS:
                self._loading = None
            # Waited for from outside: neither a caller who leaves nor the end of the service is passed on either way.
            await asyncio.wait([self.start_loading()])
        if self.loaded is not None:
            return self.loaded
        if self.state is ModelState.FAILED:
            msg = f"The model `{self.name}` could not be loaded. The log of the service has the reason."
            raise ModelFailed(msg, retry_after_seconds=_RETRY_SECONDS)
        if self.state is ModelState.CLOSED:
            msg = "The service is shutting down. Please try again later."
            raise ShuttingDown(msg, retry_after_seconds=5)
        msg = f"The model `{self.name}` is still loading. Please try again in 5s."
        raise ModelLoading(msg, retry_after_seconds=5)

    def submit(self, rows: Sequence[Row]) -> bool:
        """Queue the rows, all or none; see `Lanes.submit`. Raises ModelLoading if the model is not there."""
        if self.lanes is None:
            msg = f"The model `{self.name}` is not loaded."
            raise ModelLoading(msg)
        return self.lanes.submit(rows)

    @property
    def in_line(self) -> int:
        """Requests for which the queue has no room yet."""
        return self.lanes.requests_in_line if self.lanes else 0

    def drain(self) -> None:
        """Requests that wait for room are refused from now on; those in the queue are still run."""
        if self.lanes is not None:
            self.lanes.drain()

    async def close(self) -> None:
        """Stop the lanes and free the model; work that still waits fails with ShuttingDown."""
        self.prober.stop()
        if self._loading is not None:
            # A load cannot be interrupted half-way; its thread ends with the process.
            self._loading.cancel()
        self._enter(ModelState.CLOSED, {"unloaded": self._parts is not None})
        await self._release()

    async def _release(self) -> None:
        parts, lanes, self._parts, self.lanes = self._parts, self.lanes, None, None
        if parts is None or lanes is None:
            return
        # A lane that is stuck in a forward pass, or a verification, still uses the backend: the process takes both.
        if await lanes.close() and not self._verifying.locked():
            await in_daemon_thread(f"close {self.name}", parts.backend.close)

    async def _load(self) -> None:
        try:
            started = self._clock()
            self._enter(ModelState.RESOLVING)
            found = await in_daemon_thread(f"find {self.name}", self._finder(started))
            source = found.source
            facts: dict[str, object] = {
                "folder": str(source.folder),
                "origin": source.origin,
                "revision": source.revision,
            }
            self._enter(ModelState.LOADING, facts)
            async with self._one_at_a_time:
                parts = await in_daemon_thread(
                    f"load {self.name}", partial(load_parts, found, self.settings, self._worker)
                )
                self._parts, self.lanes = parts, self._start_lanes(parts)
                await self._warm_up(parts)
                if self.settings.verify_at_start:
                    await self._verify(parts)
            self.created = int(time.time())
            self._enter(ModelState.READY, _facts(self.settings, parts, self._clock() - started))
        except Exception as exc:  # noqa: BLE001 - the reason reaches the log, `problem` and whoever asks for the model
            self.failure = exc if isinstance(exc, ProviderError) else ModelFailed(f"{type(exc).__name__}: {exc}")
            self._enter(ModelState.FAILED, {"reason": self.failure.message})
            await self._release()

    def _finder(self, started: float) -> Callable[[], FoundModel]:
        loop = asyncio.get_running_loop()

        def notify_download(phase: str, detail: dict[str, object]) -> None:
            event = DownloadChanged(self.name, phase, self._clock() - started, detail)
            loop.call_soon_threadsafe(self._hooks, event)

        return partial(
            find_model, self.settings, self._hub, show_progress=self._show_progress, notify_download=notify_download
        )

    def _start_lanes(self, parts: ModelParts) -> Lanes:
        lanes = Lanes(
            parts.backend,
            Line(
                Batcher(parts.limits),
                max_queue_tokens=self._queue.max_tokens,
                max_wait_seconds=self._queue.max_wait_seconds,
            ),
            dimension=parts.spec.dimension,
            count=parts.plan.lanes,
            name=self.name,
            on_batch=self._batch_done,
            on_row=self._on_row,
            on_waited=self._hooks,
            clock=self._clock,
        )
        lanes.start()
        return lanes

    async def _warm_up(self, parts: ModelParts) -> None:
        """Run the model before the first caller does: a short batch for every lane, then the longest input."""
        (short,) = parts.tokenizer.encode([_PROBE_TEXT], truncate="end")
        (long,) = parts.tokenizer.encode([_PROBE_TEXT * parts.spec.max_tokens], truncate="end")
        await self._run_rows([Row(each.ids) for each in [short] * parts.limits.max_rows * parts.plan.lanes + [long]])

    async def _verify(self, parts: ModelParts) -> None:
        """Compare with the reference while the lanes are idle: nobody is let in before the model is ready."""

        def work() -> Report:
            with self._verifying:
                return verify_briefly(parts, self.settings)

        self.verified = report = await in_daemon_thread(f"verify {self.name}", work)
        self._hooks(ModelVerified(self.name, report.passed, report.seconds, report.summary()))
        check_passed(report)

    async def _embed_probe(self) -> None:
        if self._parts is not None:
            (probe,) = self._parts.tokenizer.encode([_PROBE_TEXT], truncate="end")
            await self._run_rows([Row(probe.ids)])

    async def _run_rows(self, rows: Sequence[Row]) -> None:
        ticket = Ticket(rows)
        self.submit(rows)
        await ticket.wait()

    def _batch_done(self, outcome: BatchOutcome) -> None:
        error = type(outcome.error).__name__ if outcome.error is not None else None
        self._hooks(
            BatchDone(
                self.name, len(outcome.rows), outcome.tokens, outcome.queue_seconds, outcome.forward_seconds, error
            )
        )
        if self.lanes is not None:
            self.prober.look(self.lanes.failures_in_a_row)

    def _enter(self, state: ModelState, detail: dict[str, object] | None = None) -> None:
        if self.state is ModelState.CLOSED:
            return
        now = self._clock()
        spent, self._since, self.state = now - self._since, now, state
        self._hooks(ModelChanged(self.name, state, spent, detail or {}))


def _facts(settings: ModelSettings, parts: ModelParts, seconds: float) -> dict[str, object]:
    traits = parts.backend.traits
    return {
        "seconds_in_all": round(seconds, 3),
        "bytes": parts.weight_bytes,
        "backend": settings.backend,
        "device": traits.device,
        "dtype": traits.dtype,
        "lanes": parts.plan.lanes,
        "threads_per_lane": parts.plan.threads,
        "batch_tokens": parts.limits.max_tokens,
        "neighbours": parts.neighbours.allowed,
        "tuning": parts.tuned.described() if parts.tuned else None,
        "details": dict(traits.extra),
        "max_tokens": parts.spec.max_tokens,
        "fingerprint": parts.fingerprint,
        "notices": list(parts.notices),
    }
