"""Vectors from the engine in this process."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

from provider.cli.embed.embedder import Options, refused
from provider.cli.records import Record
from provider.domain import Embedded, EmbedRequest
from provider.engine.hooks import Event, Hooks, ModelChanged, ModelState
from provider.engine.loading import ModelParts
from provider.engine.prompts import prompt_for
from provider.engine.service import EmbeddingService
from provider.engine.vectors import check_dimensions
from provider.errors import EmbeddingFailed, InputTooLong, InvalidInput
from provider.settings import ModelSettings, Settings
from provider.telemetry.logs import log_event

_CHECKED_TEXTS = 256


class EngineEmbedder:
    """The engine as an `Embedder`. Made by `opened`."""

    # Enough for every lane to sort by length, few enough that little is lost when a run is interrupted.
    most_texts = 1024
    most_characters = 65_536
    # The next texts wait in the queue while vectors are written, so that no lane waits for the disk.
    most_calls = 2

    def __init__(
        self, service: EmbeddingService, settings: ModelSettings, loaded: ModelParts, options: Options
    ) -> None:
        self._service, self._loaded, self._options = service, loaded, options
        self.model, self.fingerprint = settings.served_name, loaded.fingerprint
        check_dimensions(options.dimensions, loaded.spec.dimension)
        self.dimension = options.dimensions or loaded.spec.dimension
        self._prompt = prompt_for(self._request(()), loaded.spec)
        self._truncate = options.truncate or settings.truncate
        self.facts: Mapping[str, object] = {
            "fingerprint": loaded.fingerprint,
            "max_tokens": loaded.spec.max_tokens,
            "normalize": loaded.spec.normalize if options.normalize is None else options.normalize,
            "prompt": self._prompt,
            "truncate": self._truncate,
        }

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, options: Options) -> AsyncIterator[Self]:
        """Load the model; it is closed at the end.

        Raises:
            ProviderError: it cannot be loaded, or an option is not for it.
        """
        service = EmbeddingService(settings, Hooks(_log), show_progress=sys.stderr.isatty())
        try:
            runtime = service.runtimes[settings.model.served_name]
            await runtime.start_loading()
            if runtime.failure is not None:
                raise runtime.failure
            yield cls(service, settings.model, await runtime.ready(), options)
        finally:
            await service.close()

    async def check(self, records: Sequence[Record], advance: Callable[[int], None]) -> None:
        """See `Embedder`."""
        problems: list[str] = []
        any_too_long = False
        for start in range(0, len(records), _CHECKED_TEXTS):
            chunk = records[start : start + _CHECKED_TEXTS]
            for record, error in await asyncio.to_thread(self._errors, chunk):
                any_too_long = any_too_long or isinstance(error, InputTooLong)
                problems.append(_clause(record, error))
            advance(len(chunk))
        if problems:
            raise refused(problems, any_too_long=any_too_long)

    async def embed(self, records: Sequence[Record]) -> Embedded:
        """See `Embedder`."""
        try:
            return await self._service.embed(self._request(tuple(record.text for record in records)))
        except (InputTooLong, InvalidInput) as exc:
            error = refused([_clause(records[exc.index], exc)], any_too_long=isinstance(exc, InputTooLong))
            raise error from exc
        except EmbeddingFailed as exc:
            if exc.index is None:
                raise
            msg = f"{records[exc.index].place}: {exc.reason}"
            raise EmbeddingFailed(msg) from exc

    def _request(self, texts: tuple[str, ...]) -> EmbedRequest:
        return EmbedRequest(self.model, texts, **self._options.given())

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
        encoded = self._loaded.tokenizer.encode(
            [record.text for record in records], prompt=self._prompt, truncate=truncate
        )
        if self._truncate != "none":
            return []
        limit = self._loaded.spec.max_tokens
        errors: list[tuple[Record, InputTooLong | InvalidInput]] = []
        for index, each in enumerate(encoded):
            if each.was_cut:
                total = each.original_tokens
                error = InputTooLong(index, tokens=total or limit, limit=limit, is_counted=total is not None)
                errors.append((records[index], error))
        return errors


def _clause(record: Record, error: InputTooLong | InvalidInput) -> str:
    match error:
        case InputTooLong():
            more = "" if error.is_counted else "more than "
            return f"{record.place}: {more}{error.tokens} tokens, the model takes {error.limit}"
        case InvalidInput():
            return f"{record.place}: {error.reason.rstrip('.')}"


def _log(event: Event) -> None:
    """A model that cannot be loaded ends the command, which says why: once is enough."""
    if not (isinstance(event, ModelChanged) and event.state is ModelState.FAILED):
        log_event(event)
