"""The work behind `emb-provider embed`: chunks of texts through the engine, vectors into a file."""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from provider.app import read_configuration
from provider.cli.options import model_flags
from provider.cli.records import Record, read_records
from provider.cli.writers import open_writer
from provider.domain import Embedded, EmbedRequest
from provider.engine.hooks import Hooks
from provider.engine.service import EmbeddingService
from provider.errors import EmbeddingFailed, InputTooLong, InvalidRequest, ModelNotFound, RequestError
from provider.models.catalogue import Catalogue
from provider.settings import LimitSettings, LogSettings, ModelSettings, QueueSettings, Settings
from provider.telemetry.logs import configure_logging, log_event

# Enough for every lane to sort by length, few enough that the progress bar moves.
_CHUNK = 1024
_NO_LIMIT = 2**40


@frozen
class EmbedJob:
    """What was asked for on the command line; see `emb-provider embed --help`."""

    texts: tuple[str, ...]
    files: tuple[Path, ...]
    input_format: str
    field: str
    output: Path | None
    output_format: str
    dimensions: int | None
    truncate: Any
    input_type: str | None
    prompt_name: str | None


def run(
    job: EmbedJob,
    *,
    model: str | None,
    backend: str | None,
    device: str | None,
    dtype: str | None,
    config: Path | None,
) -> None:
    """Embed and write.

    Raises:
        ProviderError: a text, the model, or the output is at fault; no output file is left then.
    """
    settings = _settings(config, model, backend, device, dtype)
    configure_logging(settings.log)
    records = read_records(job.texts, job.files, input_format=job.input_format, field=job.field)
    asyncio.run(_embed_all(job, settings, records))


def _settings(
    config: Path | None, model: str | None, backend: str | None, device: str | None, dtype: str | None
) -> Settings:
    """One model, no limits on requests: nobody else is waiting here."""
    configured = read_configuration(config, model_flags(None, backend, device, dtype)).settings
    chosen: ModelSettings = configured.model
    if model is not None:
        try:
            chosen = Catalogue.of(configured.all_models()).find(model)
        except ModelNotFound:
            chosen = read_configuration(config, model_flags(model, backend, device, dtype)).settings.model
    return attrs.evolve(
        configured,
        model=chosen,
        models=[],
        limits=LimitSettings(max_inputs=_NO_LIMIT, max_request_tokens=_NO_LIMIT),
        queue=QueueSettings(max_tokens=_NO_LIMIT),
        # The terminal belongs to the vectors and the progress bar.
        log=LogSettings(level="WARNING", format=configured.log.format),
    )


async def _embed_all(job: EmbedJob, settings: Settings, records: Sequence[Record]) -> None:
    service = EmbeddingService(settings, Hooks(log_event), show_progress=sys.stderr.isatty())
    runtime = service.runtimes[settings.model.served_name]
    try:
        await runtime.start_loading()
        if runtime.failure is not None:
            raise runtime.failure
        model = runtime.loaded
        dimension = job.dimensions or (model.spec.dimension if model else 0)
        with (
            open_writer(job.output, job.output_format, rows=len(records), dimension=dimension) as write,
            _progress(len(records)) as advance,
        ):
            ahead: asyncio.Task[Embedded] | None = None
            previous: Sequence[Record] = ()
            # The next chunk is already on its way while this one is written, so that no lane waits for the disk.
            for chunk in _chunks(records):
                task = asyncio.create_task(_embed_chunk(service, job, runtime.name, chunk))
                if ahead is not None:
                    await _finish(ahead, previous, write, advance)
                ahead, previous = task, chunk
            if ahead is not None:
                await _finish(ahead, previous, write, advance)
    finally:
        await service.close()


async def _embed_chunk(service: EmbeddingService, job: EmbedJob, name: str, chunk: Sequence[Record]) -> Embedded:
    request = EmbedRequest(
        model=name,
        inputs=tuple(record.text for record in chunk),
        prompt_name=job.prompt_name,
        input_type=job.input_type,
        truncate=job.truncate,
        dimensions=job.dimensions,
    )
    try:
        return await service.embed(request)
    except (RequestError, EmbeddingFailed) as exc:
        raise _located(exc, chunk) from exc


async def _finish(task: "asyncio.Task[Embedded]", chunk: Sequence[Record], write: Any, advance: Any) -> None:  # noqa: ANN401 - callables
    write(chunk, (await task).vectors)
    advance(len(chunk))


def _located(exc: RequestError | EmbeddingFailed, chunk: Sequence[Record]) -> Exception:
    """The engine counts inputs within a chunk; people count lines."""
    param = getattr(exc, "param", None) or ""
    if not param.startswith("input["):
        return exc
    record = chunk[int(param.removeprefix("input[").partition("]")[0])]
    hint = " Or pass --truncate end." if isinstance(exc, InputTooLong) else ""
    return InvalidRequest(f"{record.place}: {exc.message}{hint}")


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), _CHUNK):
        yield records[start : start + _CHUNK]


class _progress:  # noqa: N801 - used like a function
    """A bar on standard error, if that is a terminal."""

    def __init__(self, total: int) -> None:
        self._bar = Progress(
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("embedding", total=total)

    def __enter__(self) -> Any:  # noqa: ANN401
        self._bar.start()
        return lambda count: self._bar.advance(self._task, count)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
