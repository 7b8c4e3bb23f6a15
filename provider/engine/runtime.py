"""One model's life: found, loaded, warmed up, watched, closed."""

import asyncio
import contextvars
import time
from collections.abc import Sequence

from attrs import evolve

from provider.domain import Caller
from provider.engine.description import ModelDescription
from provider.engine.hooks import ModelChanged, ModelNoticed, ModelState, ModelVerified
from provider.engine.lanes import Lanes
from provider.engine.loading import ModelParts
from provider.engine.loading_steps import LoadingSteps
from provider.engine.probing import Prober, warm_up_rows
from provider.engine.rows import Row
from provider.engine.running import RunningModel
from provider.engine.surroundings import Surroundings
from provider.engine.throughput import PassWatch
from provider.engine.upkeep import ModelUse
from provider.engine.verdict import Verdict, Verify
from provider.errors import ModelFailed, ModelLoading, ModelStalled, ProviderError, ShuttingDown
from provider.settings import ModelSettings

# A lazy model that could not be loaded is tried again after so long, when someone asks for it.
_RETRY_SECONDS = 59
# Between two probes of a model whose forward passes fail.
_PROBE_SECONDS = 5.0


class ModelRuntime:
    """One configured model. Everything but the loading itself happens on the event loop's thread."""

    def __init__(self, settings: ModelSettings, around: Surroundings) -> None:
        """Nothing is read until `start_loading`.

        Args:
            settings: of the model.
            around: what it shares with others.

        Raises:
            SettingsError: see `Surroundings.check`.
        """
        around.check(settings)
        self.settings, self.name = settings, settings.served_name
        self.state = ModelState.WAITING
        self.failure: ProviderError | None = None
        self.verified: Verdict | None = None
        self.steps: LoadingSteps | None = None
        self.created = int(time.time())
        self._around, self._hooks, self._clock = around, around.hooks, around.clock
        self.use = ModelUse(self._clock)
        self.is_late = False
        self._since = self._clock()
        self._watch, self._stall_seconds, self._hangs = PassWatch(self._clock), around.queue.stall_seconds, False
        self._running: RunningModel | None = None
        self._description: ModelDescription | None = None
        self._noticed: list[str] = []
        self._loading: asyncio.Task[None] | None = None
        self._settling: asyncio.Task[None] | None = None
        self.prober = Prober(self._probe, name=self.name, pause_seconds=_PROBE_SECONDS)

    @property
    def loaded(self) -> ModelParts | None:
        """The model's parts while it is ready, else None."""
        return self._running.parts if self._running is not None and self.state is ModelState.READY else None

    @property
    def lanes(self) -> Lanes | None:
        """What runs its forward passes, from its warm-up on."""
        return self._running.lanes if self._running is not None else None

    @property
    def description(self) -> ModelDescription | None:
        """What is said of the model once it has been loaded, with the tokens of a batch at present."""
        if self._description is None or self.lanes is None:
            return self._description
        return evolve(self._description, batch_tokens=self.lanes.batch_tokens)

    @property
    def notices(self) -> tuple[str, ...]:
        """What an operator should know of the loaded model: from its files, and from requests since."""
        return (*(self._running.parts.notices if self._running else ()), *self._noticed)

    def notice(self, text: str) -> None:
        """Tell an operator `text`, which a request showed; once."""
        if text not in self._noticed:
            self._noticed.append(text)
            self._hooks(ModelNoticed(self.name, text))

    @property
    def problem(self) -> str | None:
        """Why the model cannot be relied on right now, in words for an operator; None if it can."""
        if self._running is None or self.loaded is None:
            return self.failure.message if self.failure is not None else f"{self.state}"
        if self.prober.has_failed:
            return "forward passes fail"
        return self._running.stall if self._running.is_stalled else None

    @property
    def degraded(self) -> str | None:
        """Why the model works more slowly than it should, in words for an operator; None if it does not."""
        if self.is_coming and not self.settings.lazy:
            return f"added while serving: {self.state}"
        if self._running is None or self.loaded is None or self._running.is_stalled:
            return None
        return self._running.stall

    @property
    def is_coming(self) -> bool:
        """Whether the service was ready without it: it was added while serving, and has not loaded yet."""
        return self.is_late and self.loaded is None

    @property
    def stalled_lanes(self) -> int:
        """Lanes that hang in a forward pass."""
        return self._running.stalled_lanes if self._running else 0

    @property
    def is_in_use(self) -> bool:
        """Whether requests are under way, or wait for its rows as those of a model with the same fingerprint."""
        return self.use.requests > 0 or self.waiting[0] > 0

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

    def retry_loading(self) -> None:
        """Load an eager model again that failed, once its pause is over."""
        # What hangs once would hang again, and keep as much memory.
        is_failed = self.state is ModelState.FAILED and not isinstance(self.failure, ModelStalled)
        if is_failed and not self.settings.lazy and self._clock() - self._since >= self.use.retry_seconds:
            self._loading = None
            self.start_loading()

    def fail_stalled(self) -> bool:
        """Give up what hangs; see `Lanes.fail_stalled`. A load in which a forward pass hangs fails.

        Returns:
            Whether the model can run nothing any more, so that only a new process helps; never of one that was added
            while others serve.
        """
        if self.loaded is not None and self._running is not None:
            return self._running.fail_stalled()
        self._hangs = self._watch.seconds > self._stall_seconds or self.stalled_lanes > 0
        if self._hangs and self._loading is not None and not self._loading.done():
            self._loading.cancel()
            return not self.is_late
        return False

    async def unload(self, reason: str) -> None:
        """Free a lazy model, which nobody uses; its next request loads it again."""
        self._loading = None
        self._enter(ModelState.WAITING, {"unloaded": True, "reason": reason})
        await self._release()

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
            raise ShuttingDown
        msg = f"The model `{self.name}` is still loading. Please try again in 5s."
        raise ModelLoading(msg, retry_after_seconds=5)

    async def settled(self) -> None:
        """Wait until the loaded model is tuned, or cannot be."""
        if self._settling is not None:
            # From outside: a caller who leaves ends nothing.
            await asyncio.wait([self._settling])

    def wait_seconds(self, caller: Caller) -> float:
        """See `Lanes.wait_seconds`."""
        return self.lanes.wait_seconds(caller) if self.lanes else 0.0

    def check_room(self, tokens: int, caller: Caller, *, most: int | None = None) -> None:
        """See `Lanes.check_room`."""
        if self.lanes is not None:
            self.lanes.check_room(tokens, caller, most=most)

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue the rows, all or none; see `Lanes.submit`. Raises ModelLoading if the model is not there."""
        if self.lanes is None:
            msg = f"The model `{self.name}` is not loaded."
            raise ModelLoading(msg)
        self.lanes.submit(rows)

    async def close(self) -> None:
        """Stop the lanes and free the model; work that still waits fails with ShuttingDown."""
        self.prober.stop()
        if self._loading is not None:
            # A load cannot be interrupted half-way; its thread ends with the process.
            self._loading.cancel()
        self._enter(ModelState.CLOSED, {"unloaded": self._running is not None})
        await self._release()

    async def _release(self) -> None:
        running, self._running = self._running, None
        if self._settling is not None:
            self._settling.cancel()
        self.use.bytes = 0
        if running is not None:
            await running.close()

    async def _load(self) -> None:
        try:
            self.steps = steps = LoadingSteps(self.settings, self._around, self._watch)
            self._enter(ModelState.RESOLVING)
            found = await steps.find()
            self._enter(ModelState.LOADING, found.origin)
            async with self._around.one_at_a_time:
                before = await steps.memory(found)
                if self._around.make_room is not None:
                    await self._around.make_room(self, found.weight_bytes, before)
                    before = await steps.memory(found)
                parts = await steps.parts(found)
                self._running = running = RunningModel(
                    parts, self._around, name=self.name, notice=self.notice, on_failures=self._look
                )
                await running.run(warm_up_rows(parts))
                after = await steps.memory(found)
                self.use.place, self.use.bytes = after.place, max(after.held - before.held, parts.weight_bytes)
                if self.settings.verify_at_start and self._around.verify is not None:
                    # What is verified is what serves.
                    await running.settle()
                    await self._verify(running, self._around.verify)
            self.created = int(time.time())
            self._description = description = ModelDescription.of(self.settings, running.parts)
            self.failure, self.use.failures, self.use.last = None, 0, self._clock()
            self._enter(ModelState.READY, {"seconds_in_all": round(steps.seconds, 3), **description.of_loaded()})
            self._settling = asyncio.create_task(self._settle(running), name=f"settle {self.name}")
        except asyncio.CancelledError:
            if not self._hangs or self.state is ModelState.CLOSED:
                raise
            hangs = f"a forward pass hangs: it has been running for more than {self._stall_seconds} s"
            await self._fail(ModelStalled(hangs))
        except ModelLoading as exc:  # no room now: whoever asks next tries again
            self._loading = None
            self._hooks(ModelNoticed(self.name, exc.message))
            self._enter(ModelState.WAITING)
        except Exception as exc:  # noqa: BLE001 - the reason reaches the log, `problem` and whoever asks for the model
            await self._fail(exc if isinstance(exc, ProviderError) else ModelFailed(f"{type(exc).__name__}: {exc}"))

    async def _fail(self, failure: ProviderError) -> None:
        self.failure = failure
        self.use.failures += 1
        is_tried_again = not self.settings.lazy and not isinstance(failure, ModelStalled)
        retry = {"retry_seconds": self.use.retry_seconds} if is_tried_again else {}
        self._enter(ModelState.FAILED, {"reason": failure.message, **retry})
        await self._release()

    async def _settle(self, running: RunningModel) -> None:
        async with self._around.one_settles:
            async with self._around.one_at_a_time:
                pass  # models that still load go first
            await running.settle()
        if self._running is running:
            self._description = ModelDescription.of(self.settings, running.parts)

    async def _verify(self, running: RunningModel, verify: Verify) -> None:
        self.verified = report = await running.verify(verify, self.settings)
        self._hooks(ModelVerified(self.name, report.passed, report.seconds, report.summary()))
        report.check()

    def _look(self, failures_in_a_row: int) -> None:
        if self._running is not None:
            self.prober.look(failures_in_a_row)

    async def _probe(self) -> None:
        if self._running is not None:
            await self._running.probe()

    def _enter(self, state: ModelState, detail: dict[str, object] | None = None) -> None:
        if self.state is ModelState.CLOSED:
            return
        now = self._clock()
        spent, self._since, self.state = now - self._since, now, state
        self._hooks(ModelChanged(self.name, state, spent, detail or {}))
