"""The whole use case, top to bottom: texts in, unit vectors out."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from provider.domain import (
    ALONE,
    CacheKey,
    Embedded,
    EmbedRequest,
    Timings,
    Truncated,
    Truncation,
    Usage,
    Vectors,
    Worker,
)
from provider.engine.cache import VectorCache
from provider.engine.hooks import Hook, RequestEmbedded
from provider.engine.limiter import RequestLimiter
from provider.engine.loading import ModelParts
from provider.engine.patience import Patience
from provider.engine.prompts import IGNORED, is_ignored, prompt_for
from provider.engine.rows import Row, Ticket
from provider.engine.runtime import ModelRuntime
from provider.engine.tokenizer import Encoded
from provider.engine.vectors import check_dimensions, finish
from provider.errors import InvalidRequest, TooManyTokens
from provider.models.catalogue import Catalogue
from provider.settings import ModelSettings, Settings

# Below this many characters, tokenising takes less time than handing it to a thread and back.
_INLINE_CHARACTERS = 4_000
# Longer texts would make the memory of encodings large, and come again less often.
_REMEMBERED_CHARACTERS = 500


Waiting = Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]


@frozen(eq=False)
class _Plan:
    """Where each input's vector comes from: a vector at hand, or a row (several inputs may share one)."""

    vectors: list[NDArray[np.float32] | None]
    rows: list[Row | None]
    new: list[Row]

    @property
    def hits(self) -> int:
        return sum(vector is not None for vector in self.vectors)


class EmbeddingService:
    """All configured models. `open` loads and `close` ends, both inside the running event loop."""

    def __init__(
        self,
        settings: Settings,
        hooks: Hook,
        *,
        worker: Worker = ALONE,
        show_progress: bool = False,
    ) -> None:
        """Nothing is loaded until `open`."""
        self.worker = worker
        self.limits, self._settings, self._hooks = settings.limits, settings, hooks
        self._cache = VectorCache(settings.cache)
        lock = asyncio.Lock()
        self.catalogue = Catalogue.of(settings.all_models())
        self.runtimes = {
            model.served_name: ModelRuntime(
                model,
                hub=settings.hub,
                queue=settings.queue,
                hooks=hooks,
                on_row=self._cache.lands,
                one_at_a_time=lock,
                worker=worker,
                show_progress=show_progress,
            )
            for model in settings.all_models()
        }
        self.are_workers_loaded: Callable[[], bool] = lambda: True
        self.requests = RequestLimiter(settings.queue, hooks)
        self.patience = Patience()

    def open(self) -> Self:
        """Start loading every model that is not lazy, in the background, in the order of the configuration."""
        for runtime in self.runtimes.values():
            if not runtime.settings.lazy:
                runtime.start_loading()
        return self

    async def close(self) -> None:
        """Stop all models; what still waits fails with ShuttingDown."""
        self.drain()
        self.patience.end()
        await asyncio.gather(*(runtime.close() for runtime in self.runtimes.values()))

    def drain(self) -> None:
        """From now on new requests are refused, and those that wait for room; accepted ones go on."""
        self.requests.drain()
        for runtime in self.runtimes.values():
            runtime.drain()

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self.requests.is_draining

    @property
    def waiting(self) -> int:
        """Requests that wait for room: before their body is read, or before a model's queue."""
        return self.requests.waiting + sum(runtime.in_line for runtime in self.runtimes.values())

    @property
    def cached_bytes(self) -> int:
        """Memory of cached vectors."""
        return self._cache.bytes

    @property
    def problems(self) -> dict[str, str]:
        """Name of each eager model that cannot be relied on, and why. Empty: ready.

        A lazy model is not among them: its first caller must not take the service out of rotation for all others. A
        model that another worker still loads is, until all have loaded theirs once.
        """
        elsewhere = None if self.are_workers_loaded() else "loading in another worker"
        return {
            name: problem
            for name, runtime in self.runtimes.items()
            if not runtime.settings.lazy and (problem := runtime.problem or elsewhere)
        }

    def runtime(self, name: str) -> ModelRuntime:
        """The model that `name` (or alias) means.

        Raises:
            ModelNotFound: none.
        """
        return self.runtimes[self.catalogue.find(name).served_name]

    async def embed(self, request: EmbedRequest, *, waiting: Waiting | None = None) -> Embedded:
        """Embed all inputs of `request`, or fail as a whole.

        Args:
            request: what to embed.
            waiting: put around the wait for the model, which is all that can take long: the caller's chance to end
                it. An answer from the cache does not wait.

        Raises:
            RequestError: the request cannot be answered as it is.
            NotAvailable: not now.
            EmbeddingFailed: the forward pass failed.
        """
        runtime = self.runtime(request.model)
        model = await runtime.ready()
        check_dimensions(request.dimensions, model.spec.dimension)
        if is_ignored(request, model.spec):
            runtime.notice(IGNORED)
        started = time.perf_counter()
        encoded = await self._encode(runtime.settings, model, request)
        tokenised = time.perf_counter() - started
        tokens = self._count(encoded)
        plan = self._plan(model.fingerprint, encoded)
        timings = await self._run(runtime, plan, tokenised, waiting)
        normalize = model.spec.normalize if request.normalize is None else request.normalize
        vectors = finish(_gather(plan, model.spec.dimension), request.dimensions, normalize=normalize)
        truncated = tuple(
            Truncated(index, len(each.ids), each.original_tokens) for index, each in enumerate(encoded) if each.was_cut
        )
        usage = Usage(inputs=len(encoded), tokens=tokens, cache_hits=plan.hits)
        self._hooks(RequestEmbedded(runtime.name, usage, len(truncated), timings))
        return Embedded(vectors, usage, truncated, timings, model.fingerprint)

    async def _encode(self, settings: ModelSettings, model: ModelParts, request: EmbedRequest) -> Sequence[Encoded]:
        truncate: Truncation = request.truncate or settings.truncate
        if not isinstance(request.inputs[0], str):
            _check_token_input(settings, request)
            ids = [each for each in request.inputs if not isinstance(each, str)]
            return model.tokenizer.check_ids(ids, truncate=truncate)
        texts = [each for each in request.inputs if isinstance(each, str)]
        prompt = prompt_for(request, model.spec)
        if len(texts) == 1 and len(texts[0]) <= _REMEMBERED_CHARACTERS and self._cache.is_enabled:
            return (model.tokenizer.remembered(texts[0], prompt, truncate),)
        if sum(map(len, texts)) + len(prompt) * len(texts) <= _INLINE_CHARACTERS:
            return model.tokenizer.encode(texts, prompt=prompt, truncate=truncate)
        return await asyncio.to_thread(model.tokenizer.encode, texts, prompt=prompt, truncate=truncate)

    def _count(self, encoded: Sequence[Encoded]) -> int:
        tokens = sum(len(each.ids) for each in encoded)
        limit = self.limits.max_request_tokens
        if tokens > limit:
            msg = f"Requested {tokens} tokens, max {limit} tokens per request"
            raise TooManyTokens(msg)
        return tokens

    def _plan(self, fingerprint: str, encoded: Sequence[Encoded]) -> _Plan:
        plan = _Plan([], [], [])
        if not self._cache.is_enabled:
            plan.new.extend(Row(each.ids, each.skip) for each in encoded)
            plan.rows.extend(plan.new)
            plan.vectors.extend([None] * len(encoded))
            return plan
        own: dict[CacheKey, Row] = {}
        for each in encoded:
            key = CacheKey.of(fingerprint, each.ids, each.skip)
            vector = self._cache.get(key)
            row = None
            if vector is None:
                row = own.get(key) or self._cache.in_flight(key)
                if row is None:
                    row = own[key] = Row(each.ids, each.skip, key)
                    plan.new.append(row)
            plan.vectors.append(vector)
            plan.rows.append(row)
        return plan

    async def _run(
        self, runtime: ModelRuntime, plan: _Plan, tokenise_seconds: float, waiting: Waiting | None
    ) -> Timings:
        rows = [row for row in plan.rows if row is not None]
        if not rows:
            return Timings(tokenise_seconds)
        ticket = Ticket(rows)
        is_queued = True
        try:
            if plan.new:
                is_queued = runtime.submit(plan.new)
        except BaseException:
            ticket.leave()
            raise
        if is_queued:
            # Rows in line are not shared: they may still fail, by the deadline of their own request.
            for row in plan.new:
                self._cache.takes_off(row)
        await (ticket.wait() if waiting is None else waiting(ticket.wait()))
        return Timings(
            tokenise_seconds, max(row.queue_seconds for row in rows), max(row.forward_seconds for row in rows)
        )


def _check_token_input(settings: ModelSettings, request: EmbedRequest) -> None:
    if settings.token_input == "reject":  # noqa: S105 - tokens of text
        msg = (
            "This server does not accept token-ID input: token IDs are tokenizer-specific. Send strings. "
            "With LangChain set `check_embedding_ctx_length=False` on OpenAIEmbeddings. "
            "(IDs of the model's own tokenizer: the operator can set `token_input: native`.)"
        )
        raise InvalidRequest(msg, param="input", code="token_input_not_supported")
    if request.prompt or request.prompt_name or request.input_type:
        msg = "A prompt cannot be put before token-ID input. Send strings, or put the prompt's tokens into the input."
        raise InvalidRequest(msg, param="input", code="invalid_value")


def _gather(plan: _Plan, dimension: int) -> Vectors:
    vectors = np.empty((len(plan.rows), dimension), np.float32)
    for i, (vector, row) in enumerate(zip(plan.vectors, plan.rows, strict=True)):
        found = vector if row is None else row.vector
        if found is None:  # a ticket only ends without an error when every row has its vector
            msg = f"row {i} has no vector"
            raise AssertionError(msg)
        vectors[i] = found
    return vectors
