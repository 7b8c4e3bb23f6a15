"""The use cases, top to bottom: texts in, outputs out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

from attrs import evolve

from provider.cores import ONLY_WORKER, Worker
from provider.domain import ANONYMOUS, SCORES, Caller, DenseTask, Embedded, EmbedRequest, Scored, ScoreRequest
from provider.engine.cache import OutputCache
from provider.engine.encoding import Waiting, encode_inputs, encode_scored
from provider.engine.execution import Charge, execute
from provider.engine.hooks import Event, Hook, Hooks, RequestAnswered
from provider.engine.model_set import ModelSet
from provider.engine.prompts import check_named, notice_of, with_named
from provider.engine.response_cache import ResponseCache
from provider.engine.runtime import ModelRuntime
from provider.engine.stored_outputs import StoredOutputs
from provider.engine.surroundings import Surroundings
from provider.engine.upkeep import ModelUpkeep
from provider.engine.verdict import Verify
from provider.models.catalogue import Catalogue
from provider.settings import Settings
from provider.tasks import find_task, wanted
from provider.tasks.dense import check_dimensions
from provider.tasks.scores import finish_scores


def _ignore(_: Event) -> None:
    pass


class Engine:
    """All configured models, and what can be asked of them.

    `open` loads them and closes them at the end. A server, which answers while models load, calls `start` and `close`
    itself. All methods belong to the running event loop; `provider.SyncEngine` is for programs without one.
    """

    def __init__(
        self,
        settings: Settings,
        hooks: Hook,
        *,
        verify: Verify | None = None,
        worker: Worker = ONLY_WORKER,
        show_progress: bool = False,
        charge: Charge | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is loaded until `start`.

        Args:
            settings: of all models, cache and queue.
            hooks: told of everything that happens.
            verify: compares models with `verify_at_start` with their reference.
            worker: whose share of the machine it runs on.
            show_progress: whether downloads draw a progress bar on standard error.
            charge: told of the tokens of every request before they are run; what it raises refuses the request.
            clock: seconds, monotonic.

        Raises:
            SettingsError: a model has `verify_at_start`, and there is no `verify`; or the cache's store is not there.
        """
        self.worker = worker
        # A plain function that raises would fail the work that it hears of.
        hooks = hooks if isinstance(hooks, Hooks) else Hooks(hooks)
        self.limits, self._settings, self._hooks = settings.limits, settings, hooks
        self._cache = OutputCache(settings.cache, stored=StoredOutputs.open(settings.cache, hooks))
        self._execute = partial(execute, cache=self._cache, charge=charge)
        self.runtimes: dict[str, ModelRuntime] = {}
        self.upkeep = ModelUpkeep(self.runtimes, settings.memory, clock=clock)
        self._caring: asyncio.Task[None] | None = None
        around = Surroundings(
            hub=settings.hub,
            queue=settings.queue,
            hooks=hooks,
            on_row=self._cache.keep,
            one_at_a_time=asyncio.Lock(),
            one_settles=asyncio.Lock(),
            verify=verify,
            worker=worker,
            show_progress=show_progress,
            clock=clock,
            make_room=self.upkeep.make_room,
        )
        self.responses = ResponseCache(self._cache, self.runtimes, hooks, charge)
        self._models = ModelSet(
            self.runtimes,
            settings.all_models(),
            make=partial(ModelRuntime, around=around),
            hooks=hooks,
            on_change=self.responses.forget,
        )
        self.upkeep.coming = self._models.coming
        self.are_workers_loaded: Callable[[], bool] = lambda: True

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings,
        hooks: Hook = _ignore,
        *,
        cores: int | None = None,
        worker: Worker = ONLY_WORKER,
        verify: Verify | None = None,
        show_progress: bool = False,
    ) -> AsyncIterator[Self]:
        """An engine whose models are loaded, but for lazy ones; it is closed at the end.

        Args:
            settings: of all models, cache and queue.
            hooks: called with every event.
            cores: most CPU cores to use; None for all that this process has.
            worker: which of several processes this is, that share the machine.
            verify: `provider.verify_briefly`, for models with `verify_at_start`.
            show_progress: whether downloads draw a progress bar on standard error.

        Raises:
            ProviderError: a model cannot be loaded; nothing is left behind.
        """
        worker = evolve(worker, most_cores=cores)
        engine = cls(settings, hooks, verify=verify, worker=worker, show_progress=show_progress)
        try:
            engine.start()
            for runtime in engine.runtimes.values():
                if not runtime.settings.lazy:
                    await runtime.start_loading()
                    if runtime.failure is not None:
                        raise runtime.failure
            yield engine
        finally:
            await engine.close()

    def start(self) -> Self:
        """Start loading every model that is not lazy, in the background, in the order of the configuration."""
        for runtime in self.runtimes.values():
            if not runtime.settings.lazy:
                runtime.start_loading()
        self._caring = asyncio.create_task(self.upkeep.run(), name="care for models")
        return self

    async def close(self) -> None:
        """Stop all models; what still waits fails with ShuttingDown."""
        if self._caring is not None:
            self._caring.cancel()
        await self._models.close()
        await self._cache.close()

    def reconfigure(self, settings: Settings) -> None:
        """Serve the models of `settings` within its limits from now on; see `ModelSet.change`. The rest stays.

        Raises:
            SettingsError: a name is given twice, or a model's settings contradict each other; nothing has changed.
        """
        self._models.change(settings.all_models())
        self.limits = settings.limits

    @property
    def catalogue(self) -> Catalogue:
        """Names that clients may use."""
        return self._models.catalogue

    @property
    def cached_bytes(self) -> int:
        """Memory of cached outputs."""
        return self._cache.nbytes

    @property
    def problems(self) -> dict[str, str]:
        """Name of each eager model that cannot be relied on, and why. Empty: ready.

        A lazy model is not among them: its first caller must not take the service out of rotation for all others. A
        model that another worker still loads is, until all have loaded theirs once.
        """
        return self._models.problems(None if self.are_workers_loaded() else "loading in another worker")

    def least_wait_seconds(self, caller: Caller) -> float:
        """How long a small request of `caller` would wait for the least busy model, at the measured rate."""
        return min((each.wait_seconds(caller) for each in self.runtimes.values()), default=0.0)

    def check_room(self, most: int, caller: Caller) -> None:
        """See that a request of at most so many tokens may find room, before anything else is known of it.

        Raises:
            Overloaded: no model has any for it. With caching on (`is_caching`), a request may need none.
        """
        self._models.check_room(most, caller)

    @property
    def is_caching(self) -> bool:
        """Whether outputs are kept, so that a request may need no pass."""
        return self._cache.is_enabled

    def runtime(self, name: str, caller: Caller = ANONYMOUS) -> ModelRuntime:
        """The model that `name` (or alias) means, with or without one of its prompts behind a colon.

        Raises:
            ModelNotFound: none, or the model has no such prompt.
            ModelForbidden: one that `caller` may not use.
        """
        runtime, name, prompt = self._models.named(name, caller)
        if prompt is not None and runtime.loaded is not None:
            check_named(name, prompt, runtime.loaded.spec)
        return runtime

    def split(self, name: str) -> tuple[str, str | None]:
        """See `Catalogue.split`."""
        return self._models.catalogue.split(name)

    async def embed(
        self, request: EmbedRequest, *, caller: Caller = ANONYMOUS, waiting: Waiting | None = None
    ) -> Embedded:
        """Embed all inputs of `request`, or fail as a whole.

        Args:
            request: what to embed.
            caller: who asks; its rows in the queue carry it, and listeners are told.
            waiting: put around what can take long, tokenising many texts and the wait for the model: the caller's
                chance to end it. An answer from the cache does not wait.

        Raises:
            RequestError: the request cannot be answered as it is.
            NotAvailable: not now.
            EmbeddingFailed: the forward pass failed.
        """
        runtime, name, prompt = self._models.named(request.model, caller)
        with runtime.use:
            model = runtime.loaded or await runtime.ready()
            if prompt is not None:
                request = with_named(evolve(request, model=name), prompt, model.spec)
            specs = wanted(model.spec, request.outputs)
            if request.dimensions is not None and (dense := model.spec.find(DenseTask)) is not None:
                check_dimensions(request.dimensions, dense.dimension)
            if (notice := notice_of(request, model.spec, runtime.name)) is not None:
                runtime.notice(notice)
            done = await self._execute(
                encode_inputs,
                runtime,
                model,
                request,
                max_tokens=self.limits.max_request_tokens,
                caller=caller,
                waiting=waiting,
            )
        outputs: dict[str, Any] = {}
        for spec in specs:
            rows = [each[spec.output] for each in done.outputs]
            outputs[spec.output] = find_task(spec.output).finish(spec, rows, done.features, request)
        cuts = len(done.truncated)
        self._hooks(RequestAnswered(runtime.name, done.usage, cuts, done.timings, caller, tuple(outputs)))
        return Embedded(
            outputs,
            done.usage,
            done.truncated,
            done.timings,
            model.fingerprint,
            runtime.name,
            done.key,
            done.tokens,
            done.cached,
        )

    async def score(
        self, request: ScoreRequest, *, caller: Caller = ANONYMOUS, waiting: Waiting | None = None
    ) -> Scored:
        """Score all texts of `request`, alone or each with its query, or fail as a whole.

        Args:
            request: what to score.
            caller: who asks; its rows in the queue carry it, and listeners are told.
            waiting: as in `embed`.

        Raises:
            ProviderError: as `embed`.
        """
        runtime, name, prompt = self._models.named(request.model, caller)
        with runtime.use:
            model = runtime.loaded or await runtime.ready()
            if prompt is not None:
                check_named(name, prompt, model.spec)
            wanted(model.spec, (SCORES,))
            done = await self._execute(
                encode_scored,
                runtime,
                model,
                request,
                max_tokens=self.limits.max_request_tokens,
                caller=caller,
                waiting=waiting,
            )
        task = model.spec.scores
        scores = finish_scores(task, [each[SCORES] for each in done.outputs], raw=request.raw)
        cuts = len(done.truncated)
        self._hooks(RequestAnswered(runtime.name, done.usage, cuts, done.timings, caller, (SCORES,)))
        return Scored(scores, task.labels, done.usage, done.truncated, done.timings, model.fingerprint)
