"""Vectors from the engine in this process."""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

import structlog

from provider.bulk.embedder import ENGINE_CALLS, ENGINE_TEXTS, MOST_CHARACTERS, Options, Problem
from provider.bulk.phrases import clause, naming
from provider.cores import ONLY_WORKER, Worker
from provider.domain import DENSE, DenseTask, Embedded, EmbedRequest
from provider.engine.encoding import tokenizer_for
from provider.engine.engine import Engine
from provider.engine.hooks import Event, Hooks, ModelChanged, ModelState
from provider.engine.loading import ModelParts
from provider.engine.prompts import are_queries, prompt_for, with_named
from provider.errors import InputTooLong, InvalidInput, OutputNotSupported
from provider.settings import ModelSettings, Settings
from provider.tasks.dense import check_dimensions
from provider.telemetry.logs import log_event, log_store
from provider.texts.records import Record
from provider.verification import verify_briefly


class EngineEmbedder:
    """The engine as an `Embedder`. Made by `opened`."""

    most_texts, most_characters, most_calls = ENGINE_TEXTS, MOST_CHARACTERS, ENGINE_CALLS
    can_check = True

    def __init__(
        self, service: Engine, settings: ModelSettings, loaded: ModelParts, options: Options, prompt: str | None
    ) -> None:
        self._service, self._loaded, self._options, self._named = service, loaded, options, prompt
        self.model, self.fingerprint = settings.served_name, loaded.fingerprint
        for output in options.outputs:
            if output not in loaded.spec.outputs:
                word, known = loaded.spec.task.word, loaded.spec.outputs
                raise OutputNotSupported(output, model=self.model, task=word, supported=known)
        dense = loaded.spec.find(DenseTask) if DENSE in options.outputs else None
        if dense is not None:
            check_dimensions(options.dimensions, dense.dimension)
        self.dimension = (options.dimensions or dense.dimension) if dense else 0
        self._prompt = prompt_for(self._request(()), loaded.spec)
        self._truncate = options.truncate or settings.truncate
        queries = loaded.spec.queries if are_queries(self._request(()), loaded.spec) else None
        self._tokenizer = tokenizer_for(self._request(()), loaded.spec, loaded.tokenizer)
        self._max_tokens = self._tokenizer.max_tokens
        self.about: Mapping[str, object] = {
            "model": self.model,
            "fingerprint": self.fingerprint,
            "backend": settings.backend,
            "dtype": loaded.backend.traits.dtype,
        }
        self.facts: Mapping[str, object] = {
            "fingerprint": loaded.fingerprint,
            "max_tokens": self._max_tokens,
            "normalize": dense.normalize if dense and options.normalize is None else options.normalize,
            "prompt": self._prompt,
            "truncate": self._truncate,
            # The modules that the texts go through.
            **({} if loaded.spec.queries is None else {"queries": queries is not None}),
            **({} if options.is_dense else {"outputs": list(options.outputs)}),
        }

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, settings: Settings, options: Options, prompt: str | None = None, worker: Worker = ONLY_WORKER
    ) -> AsyncIterator[Self]:
        """Load the model; it is closed at the end.

        Args:
            settings: of the engine, with one model.
            options: asked for with every text.
            prompt: what stood behind the model's name, as in `name:query`.
            worker: whose share of the machine it runs on.

        Raises:
            ProviderError: it cannot be loaded, or an option is not for it.
        """
        async with loaded(settings, worker) as (engine, model):
            # Once it works there is no idle moment to measure in.
            await engine.runtimes[settings.model.served_name].settled()
            yield cls(engine, settings.model, model, options, prompt)

    async def begin(self) -> None:
        """See `Embedder`; it is ready."""

    async def check(self, records: Sequence[Record]) -> Sequence[Problem]:
        """See `Embedder`."""
        errors = await asyncio.to_thread(self._errors, records)
        return [Problem(clause(record, error), isinstance(error, InputTooLong)) for record, error in errors]

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """See `Embedder`."""
        with naming(records):
            return await self._service.embed(self._request(tuple(record.text for record in records)))

    def _request(self, texts: tuple[str, ...]) -> EmbedRequest:
        request = EmbedRequest(self.model, texts, **self._options.given(), outputs=self._options.outputs)
        return request if self._named is None else with_named(request, self._named, self._loaded.spec)

    def _errors(self, records: Sequence[Record]) -> list[tuple[Record, InputTooLong | InvalidInput]]:
        """The records whose texts the tokenizer refuses."""
        try:
            return self._too_long(records)
        except (InputTooLong, InvalidInput) as exc:
            if len(records) == 1:
                return [(records[0], exc)]
        return [each for record in records for each in self._errors([record])]

    def _too_long(self, records: Sequence[Record]) -> list[tuple[Record, InputTooLong | InvalidInput]]:
        truncate = "end" if self._truncate == "none" else self._truncate
        encoded = self._tokenizer.encode([record.text for record in records], prompt=self._prompt, truncate=truncate)
        if self._truncate != "none":
            return []
        limit = self._max_tokens
        errors: list[tuple[Record, InputTooLong | InvalidInput]] = []
        for index, each in enumerate(encoded):
            if each.was_cut:
                total = each.original_tokens
                error = InputTooLong(index, tokens=total or limit, limit=limit, is_counted=total is not None)
                errors.append((records[index], error))
        return errors


@asynccontextmanager
async def loaded(settings: Settings, worker: Worker = ONLY_WORKER) -> AsyncIterator[tuple[Engine, ModelParts]]:
    """An engine with its one model, loaded for its worker's share of the machine; closed at the end.

    Raises:
        ProviderError: it cannot be loaded.
    """
    show_progress = sys.stderr.isatty() and worker.number == 0
    hooks = Hooks(_log, log_store)
    opened = Engine.open(settings, hooks, worker=worker, verify=verify_briefly, show_progress=show_progress)
    async with opened as engine:
        yield engine, await engine.runtimes[settings.model.served_name].ready()


def _log(event: Event) -> None:
    """Say it, for the command line; a model that cannot be loaded ends the command, which says why once."""
    if structlog.is_configured() and not (isinstance(event, ModelChanged) and event.state is ModelState.FAILED):
        log_event(event)
