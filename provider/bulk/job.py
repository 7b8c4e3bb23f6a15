"""A run of bulk embedding: read, check everything, embed, write."""

import asyncio
import hashlib
import signal
import sys
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from provider.bulk.checkpoint import Checkpoint
from provider.bulk.embedder import Embedder, Options
from provider.bulk.output import Destination, Stream
from provider.bulk.progress import ProgressBars, RunSummary
from provider.domain import Embedded
from provider.errors import InvalidRequest, ProviderError
from provider.process import cleaning_up_after_signals, handled_signals
from provider.settings import Settings
from provider.telemetry.logs import configure_logging
from provider.texts.records import ReadOptions, Record, Records, read_records

DEFAULT_BATCH_SIZE = 64
"""Texts of a request to a server."""

# The first texts of a run, so that its bar soon moves; the next are twice as many, up to what the embedder likes.
_FIRST_TEXTS = 32


@frozen
class EmbedJob:
    """What is embedded, by what, and where the vectors go.

    Attributes:
        texts: arguments; `-` stands for standard input.
        files: of texts; `-` is standard input.
        reading: how to read them.
        output: a file; None and `-` are standard output.
        output_format: a name in `FORMATS`, or `auto`.
        restart: begin anew instead of going on where an interrupted run ended.
        options: asked for with every text.
        engine: settings of the engine in this process; None to ask the server at `url`.
        prompt: what stood behind the name of the engine's model, as in `name:query`.
        url: base URL of a server.
        model: of the server; None for the first one that it lists.
        api_key: for the server.
        batch_size: texts of one request to the server.
    """

    texts: tuple[str, ...]
    files: tuple[Path, ...]
    reading: ReadOptions
    output: Path | None
    output_format: str
    restart: bool
    options: Options
    engine: Settings | None = None
    prompt: str | None = None
    url: str = ""
    model: str | None = None
    api_key: str | None = None
    batch_size: int = DEFAULT_BATCH_SIZE


def run(job: EmbedJob) -> None:
    """Embed and write. What can be known to be wrong is told before a model is loaded.

    Raises:
        ProviderError: a text, the model, or the output is at fault. The vectors made so far are kept beside the output.
        SystemExit: with 128 and the signal, after a signal or when nobody reads standard output any more.
    """
    try:
        with cleaning_up_after_signals():
            _run(job)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)


def _run(job: EmbedJob) -> None:
    destination = Destination.of(job.output, job.output_format, job.options.outputs)
    if job.restart and not destination.is_file:
        msg = f"--restart is for output files; {destination.name} always begins anew: remove it"
        raise InvalidRequest(msg)
    opening = _embedder(job)
    records = read_records(job.texts, job.files, job.reading)
    for notice in destination.form.check(records.texts):
        click.echo(f"emb-provider: {notice}", err=True)
    inputs = f"{len(records.texts)} texts ({_digest(records.texts)})"
    with destination.opened(records.texts, {"inputs": inputs}, restart=job.restart) as output:
        summary = RunSummary()
        try:
            stopped_by = asyncio.run(_until_signal(_work(opening, records, output, destination, summary)))
        except ProviderError as exc:
            exc.add_note(_kept(output, records))
            raise
        if stopped_by is not None:
            click.echo(f"emb-provider: stopped by {signal.Signals(stopped_by).name}{_kept(output, records)}", err=True)
            sys.exit(128 + stopped_by)


def _kept(output: Checkpoint | Stream, records: Records) -> str:
    if not output.can_be_continued:
        return ""
    return f". {output.done} of {len(records.texts)} texts are done; the same command goes on from there"


def _embedder(job: EmbedJob) -> AbstractAsyncContextManager[Embedder]:
    """What makes the vectors; nothing is loaded or asked yet."""
    if job.engine is not None:
        from provider.bulk.engine import EngineEmbedder  # noqa: PLC0415 - a server is asked without an engine

        configure_logging(job.engine.log)
        return EngineEmbedder.opened(job.engine, job.options, job.prompt)
    from provider.bulk.server import ServerEmbedder  # noqa: PLC0415 - it brings an HTTP client

    return ServerEmbedder.opened(job.url, job.options, model=job.model, api_key=job.api_key, batch_size=job.batch_size)


async def _until_signal(work: Coroutine[Any, Any, None]) -> int | None:
    """Let `work` end by itself, or cancel it at the first signal, which is returned; a second one ends the process."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        for each in before:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    before = {each: signal.getsignal(each) for each in handled_signals()}
    for each in before:
        loop.add_signal_handler(each, stop, each)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for each, handler in before.items() if not received else ():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)
    return received[0] if received else None


async def _work(
    opening: AbstractAsyncContextManager[Embedder],
    records: Records,
    output: Checkpoint | Stream,
    destination: Destination,
    summary: RunSummary,
) -> None:
    texts = records.texts
    with ProgressBars.shown(is_wanted=not destination.is_terminal) as bars:
        bars.start("loading", None)
        async with opening as embedder:
            output.begin(embedder.facts, embedder.dimension, embedder.about)
            summary.resumed = output.done
            if output.done:
                message = f"going on with an interrupted run: {output.done} of {len(texts)} texts are done"
                click.echo(f"emb-provider: {message} (--restart begins anew)", err=True)
            rest = texts[output.done :]
            bars.start("checking", len(rest))
            await embedder.check(rest, bars.advance)
            bars.start("embedding", len(texts), output.done)
            with summary.timed():
                await _embed_all(embedder, rest, output, bars, summary)
        bars.start("writing", len(texts))
        for rows in output.finish():
            bars.advance(rows)
            await asyncio.sleep(0)
    line = summary.shown(destination.name, embedder.model, embedder.fingerprint, records.skipped)
    click.echo(f"emb-provider: {line}", err=True)


async def _embed_all(
    embedder: Embedder, records: Sequence[Record], output: Checkpoint | Stream, bars: ProgressBars, summary: RunSummary
) -> None:
    """Embed and write, with several calls under way, in the order of the records."""
    under_way: deque[tuple[Sequence[Record], asyncio.Task[Embedded]]] = deque()

    async def finish_first() -> None:
        chunk, task = under_way[0]
        embedded = await task
        under_way.popleft()
        output.append(chunk, embedded.outputs)
        summary.add(chunk, embedded)
        bars.advance(len(chunk))

    try:
        for chunk in _chunks(records, embedder):
            under_way.append((chunk, asyncio.create_task(embedder.embed(chunk))))
            if len(under_way) >= embedder.most_calls:
                await finish_first()
        while under_way:
            await finish_first()
    finally:
        tasks = [task for _, task in under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _chunks(records: Sequence[Record], embedder: Embedder) -> Iterator[Sequence[Record]]:
    start, most_texts = 0, min(_FIRST_TEXTS, embedder.most_texts)
    while start < len(records):
        end, characters = start, 0
        while end < len(records) and end - start < most_texts:
            characters += len(records[end].text)
            if end > start and characters > embedder.most_characters:
                break
            end += 1
        yield records[start:end]
        start, most_texts = end, min(2 * most_texts, embedder.most_texts)


def _digest(records: Sequence[Record]) -> str:
    """16 hex digits over all texts, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for record in records:
        text = record.text.encode(errors="surrogatepass")
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text)
    return digest.hexdigest()
