"""A contender: this product's engine without HTTP, and how near it comes to what the machine can multiply.

Texts go from the tokenizer to the finished vector as in a request, with the cache
off; what is missing is HTTP, JSON and base64.
"""

import asyncio
import itertools
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Self

import attrs
import msgspec

from provider.bench.flops import ModelShape
from provider.bench.load_generator import TIMEOUT, Done, LoadGenerator
from provider.bench.messages import EngineSetup, Forward, Outcome, Slice
from provider.bench.texts import TextPool
from provider.domain import Embedded, EmbedRequest, Scored, ScoreRequest
from provider.engine.engine import Engine
from provider.engine.hooks import BatchDone, Event, Hooks
from provider.engine.loading import ModelParts
from provider.engine.pairs import PairOptions
from provider.errors import ProviderError
from provider.models.folder import read_config
from provider.settings import CacheSettings
from provider.verification import verify_briefly

# Measured anew before every slice: the machine's rate drifts.
_MATMUL_SECONDS = 0.2
# Texts of a slice that are counted for its attention, which goes by the square of the length.
_SAMPLE = 256


Request = EmbedRequest | ScoreRequest


class InProcessEngine:
    """One model on one backend, in this process."""

    def __init__(
        self,
        setup: EngineSetup,
        service: Engine,
        name: str,
        model: ModelParts,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Use `open`."""
        self._setup, self._service, self._name, self._model, self._close = setup, service, name, model, close
        self._texts, self._ranks = TextPool.of(setup.texts), setup.texts.task == "rerank"
        self._batches, self._forward_seconds = 0, 0.0
        self.facts: dict[str, Any] = {}
        self._shape = ModelShape.of_config(read_config(model.spec.folder))
        self._probe = self._matmul_probe()

    @classmethod
    async def open(cls, setup: EngineSetup) -> Self:
        """Load the model.

        Raises:
            ProviderError: the model or the backend is at fault.
        """
        settings = attrs.evolve(setup.settings, cache=CacheSettings(enabled=False))
        hooks = Hooks()
        name = settings.model.served_name
        loop = asyncio.get_running_loop()
        started = loop.time()
        stack = AsyncExitStack()
        service = await stack.enter_async_context(Engine.open(settings, hooks, verify=verify_briefly))
        runtime = service.runtimes[name]
        seconds = loop.time() - started
        await runtime.settled()
        model = await runtime.ready()
        memory = _peak_bytes()
        engine = cls(setup, service, name, model, stack.aclose)
        hooks.add(engine._listen)
        known = runtime.description.values() if runtime.description else {}
        engine.facts = {
            "model": name,
            **{each: known.get(each) for each in ("backend", "device", "dtype", "lanes", "threads_per_lane")},
            "load_seconds": round(seconds, 2),
            "peak_bytes": memory,
        }
        return engine

    async def count(self, texts: tuple[str, ...]) -> int:
        """Tokens of `texts`, prompt and special tokens included."""
        return sum(self._lengths(texts))

    async def compute(self, texts: tuple[str, ...]) -> list[list[float]]:
        """The dense vectors of `texts`, or their scores as the documents of one query."""
        rows: list[list[float]]
        if self._ranks:
            request = ScoreRequest(model=self._name, texts=texts, queries=(self._texts.query(0),), truncate="end")
            rows = (await self._service.score(request)).scores.tolist()
        else:
            embedded = await self._service.embed(EmbedRequest(model=self._name, inputs=texts, truncate="end"))
            rows = embedded.vectors.tolist()
        return rows

    async def run(self, order: Slice) -> Outcome:
        """Bear one slice of load, after measuring the matrix-multiply rate."""
        matmul = self._probe.flops_per_second(_MATMUL_SECONDS) if self._probe else 0.0
        target = _Requests(self._service, self._requests(order))
        self._batches, self._forward_seconds = 0, 0.0
        outcome = await LoadGenerator(target, order).run()
        if not self._shape or not self._probe or not outcome.tokens:
            return outcome
        sample = list(itertools.islice(self._texts.draw(order.seed, order.salt, order.load.words), _SAMPLE))
        lengths = self._lengths(tuple(sample))
        forward = Forward(
            batches=self._batches,
            seconds=self._forward_seconds,
            lanes=self._model.plan.lanes,
            flops=self._shape.flops(lengths) / sum(lengths) * outcome.tokens,
            matmul_flops_per_second=matmul,
            matmul_dtype=self._probe.dtype,
        )
        return msgspec.structs.replace(outcome, forward=forward)

    async def close(self) -> None:
        """Unload the model."""
        await self._close()

    def _listen(self, event: Event) -> None:
        if isinstance(event, BatchDone):
            self._batches += 1
            self._forward_seconds += event.forward_seconds

    def _lengths(self, texts: tuple[str, ...]) -> list[int]:
        prompt = self._model.spec.default_prompt
        if self._ranks:
            assert self._model.pairs is not None, "a model that reranks has a tokenizer for pairs"  # noqa: S101
            encoded = self._model.pairs.encode((self._texts.query(0),), texts, PairOptions(prompt, "end"))
        else:
            encoded = self._model.tokenizer.encode(texts, prompt=prompt, truncate="end")
        return [len(each.ids) for each in encoded]

    def _requests(self, order: Slice) -> Iterator[Request]:
        texts, query = self._texts.draw(order.seed, order.salt, order.load.words), self._texts.query(order.seed)
        truncate: Any = self._setup.truncate
        while True:
            inputs = tuple(itertools.islice(texts, order.load.batch))
            if self._ranks:
                yield ScoreRequest(model=self._name, texts=inputs, queries=(query,), truncate=truncate)
            else:
                yield EmbedRequest(model=self._name, inputs=inputs, truncate=truncate)

    def _matmul_probe(self) -> Any:  # noqa: ANN401 - its module imports torch
        if self._shape is None:
            return None
        from provider.backends.torch.matmul import MatmulProbe  # noqa: PLC0415

        traits, plan = self._model.backend.traits, self._model.plan
        return MatmulProbe(
            self._shape.products,
            tokens=traits.batch_tokens,
            dtype=traits.dtype,
            device=traits.device,
            lanes=plan.lanes,
            threads=plan.threads,
        )


class _Requests:
    """Requests to the service, each a task; a `Target`."""

    def __init__(self, service: Engine, requests: Iterator[Request]) -> None:
        self.messages: dict[str, str] = {}
        self._service, self._requests = service, requests
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, done: Done) -> None:
        task = asyncio.create_task(self._answer(next(self._requests), done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def abandon(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    async def _answer(self, request: Request, done: Done) -> None:
        try:
            answer: Embedded | Scored
            if isinstance(request, ScoreRequest):
                answer = await self._service.score(request)
            else:
                answer = await self._service.embed(request)
        except asyncio.CancelledError:
            self.messages.setdefault(TIMEOUT, "not answered within the time allowed (--timeout)")
            done(None, TIMEOUT)
        except ProviderError as exc:
            kind = type(exc).__name__
            self.messages.setdefault(kind, exc.message)
            done(None, kind)
        else:
            done(answer.usage.tokens, None)


def _peak_bytes() -> int:
    """The most memory this process has had. Linux counts in KiB, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
