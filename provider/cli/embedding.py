"""The work behind `emb-provider embed`: chunks of texts through the engine, vectors into a file."""

import asyncio
import contextlib
import signal
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from provider.cli.chosen import chosen_model
from provider.cli.records import Record, read_records
from provider.cli.writers import Write, open_writer
from provider.domain import Embedded, EmbedRequest
from provider.engine.hooks import Hooks
from provider.engine.service import EmbeddingService
from provider.errors import EmbeddingFailed, InputTooLong, InvalidInput, InvalidRequest, ProviderError, RequestError
from provider.settings import Settings
from provider.telemetry.logs import configure_logging, log_event

# Enough for every lane to sort by length, few enough that the progress bar moves.
_CHUNK = 1024


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
    settings = chosen_model(config, model, backend, device, dtype)
    configure_logging(settings.log)
    records = read_records(job.texts, job.files, input_format=job.input_format, field=job.field)
    try:
        asyncio.run(_until_told_to_stop(_embed_all(job, settings, records)))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


async def _until_told_to_stop(work: Coroutine[Any, Any, None]) -> None:
    """SIGTERM ends the work as Ctrl-C does: with everything cleaned up."""
    task = asyncio.ensure_future(work)
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


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
            cut = await _embed_chunks(service, job, _chunks(records), write, advance)
        if cut:
            places = ", ".join(record.place for record in cut[:3]) + (", …" if len(cut) > 3 else "")
            click.echo(f"emb-provider: {len(cut)} texts were too long and were cut: {places}", err=True)
    finally:
        await service.close()


async def _embed_chunks(
    service: EmbeddingService,
    job: EmbedJob,
    chunks: Iterable[Sequence[Record]],
    write: Write,
    advance: Callable[[int], None],
) -> list[Record]:
    """Embed and write chunk by chunk; the records that were cut."""
    under_way: deque[tuple[Sequence[Record], asyncio.Task[Embedded]]] = deque()
    cut: list[Record] = []

    async def finish_first() -> None:
        chunk, task = under_way[0]
        embedded = await task
        under_way.popleft()
        write(chunk, embedded.vectors)
        cut.extend(chunk[each.index] for each in embedded.truncated)
        advance(len(chunk))

    name = service.catalogue.names()[0][1]
    try:
        for chunk in chunks:
            under_way.append((chunk, asyncio.create_task(_embed_chunk(service, job, name, chunk))))
            # The next chunk is already on its way while this one is written, so that no lane waits for the disk.
            if len(under_way) > 1:
                await finish_first()
        while under_way:
            await finish_first()
    finally:
        tasks = [task for _, task in under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return cut


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


def _located(exc: RequestError | EmbeddingFailed, chunk: Sequence[Record]) -> ProviderError:
    """The engine counts inputs within a chunk; people count lines."""
    match exc:
        case InputTooLong():
            more = "" if exc.is_counted else "more than "
            what = f"it has {more}{exc.tokens} tokens, the model takes {exc.limit}. Shorten it, or pass --truncate end"
            return InvalidRequest(f"{chunk[exc.index].place}: {what}")
        case InvalidInput():
            return InvalidRequest(f"{chunk[exc.index].place}: {exc.reason}")
        case EmbeddingFailed(index=int(index)):
            return EmbeddingFailed(f"{chunk[index].place}: {exc.reason}")
        case _:
            return exc


def _chunks(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    for start in range(0, len(records), _CHUNK):
        yield records[start : start + _CHUNK]


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal."""
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("embedding", total=total)
        yield lambda count: bar.advance(task, count)
