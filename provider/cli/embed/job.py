"""The work behind `emb-provider embed`: read, check everything, embed, write."""

import asyncio
import hashlib
import os
import signal
import sys
from collections import deque
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from provider.cli.chosen import chosen_model
from provider.cli.embed.checkpoint import Checkpoint
from provider.cli.embed.embedder import Embedder, Options
from provider.cli.embed.output import Destination, Stream
from provider.cli.embed.progress import Steps, Tally
from provider.cli.records import ReadOptions, Record, Records, read_records
from provider.domain import Embedded
from provider.errors import InvalidRequest, ProviderError
from provider.telemetry.logs import configure_logging

# The first texts of a run, so that its bar soon moves; the next are twice as many, up to what the embedder likes.
_FIRST_TEXTS = 32
# Texts of a request to a server.
_BATCH_SIZE = 64
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@frozen
class EmbedJob:
    """What was asked for on the command line; see `emb-provider embed --help`."""

    texts: tuple[str, ...]
    files: tuple[Path, ...]
    reading: ReadOptions
    output: Path | None
    output_format: str
    restart: bool
    options: Options
    url: str | None
    api_key: str | None
    batch_size: int | None
    model: str | None
    backend: str | None
    device: str | None
    dtype: str | None
    config: Path | None


def run(job: EmbedJob) -> None:
    """Embed and write. What can be known to be wrong is told before a model is loaded.

    Raises:
        ProviderError: a text, the model, or the output is at fault. The vectors made so far are kept beside the output.
        SystemExit: with 128 and the signal, after a signal or when nobody reads standard output any more.
    """
    try:
        _run(job)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)


def _run(job: EmbedJob) -> None:
    _check_flags(job)
    destination = Destination.of(job.output, job.output_format)
    if job.restart and not destination.is_file:
        msg = f"--restart is for output files; {destination.name} always begins anew: remove it"
        raise InvalidRequest(msg)
    opening = _embedder(job)
    records = read_records(job.texts, job.files, job.reading)
    for notice in destination.form.check(records.texts):
        click.echo(f"emb-provider: {notice}", err=True)
    inputs = f"{len(records.texts)} texts ({_digest(records.texts)})"
    with destination.opened(records.texts, {"inputs": inputs}, restart=job.restart) as output:
        tally = Tally()
        try:
            stopped_by = asyncio.run(_until_signal(_work(opening, records, output, destination, tally)))
        except ProviderError as exc:
            exc.message += _kept(output, records)
            raise
        if stopped_by is not None:
            click.echo(f"emb-provider: stopped by {signal.Signals(stopped_by).name}{_kept(output, records)}", err=True)
            sys.exit(128 + stopped_by)


def _kept(output: Checkpoint | Stream, records: Records) -> str:
    if not output.can_be_continued:
        return ""
    return f". {output.done} of {len(records.texts)} texts are done; the same command goes on from there"


def _embedder(job: EmbedJob) -> AbstractAsyncContextManager[Embedder]:
    """What makes the vectors; its settings are checked, and nothing is loaded or asked yet."""
    if job.url is None:
        from provider.cli.embed.engine import EngineEmbedder  # noqa: PLC0415 - a server is asked without an engine

        settings = chosen_model(job.config, job.model, job.backend, job.device, job.dtype)
        configure_logging(settings.log)
        return EngineEmbedder.opened(settings, job.options)
    from provider.cli.embed.server import ServerEmbedder  # noqa: PLC0415 - it brings an HTTP client

    key = job.api_key or os.environ.get("OPENAI_API_KEY")
    return ServerEmbedder.opened(
        job.url, job.options, model=job.model, api_key=key, batch_size=job.batch_size or _BATCH_SIZE
    )


def _check_flags(job: EmbedJob) -> None:
    """A flag that would do nothing is an error."""
    here = ("backend", "device", "dtype", "config")
    elsewhere = ("api_key", "batch_size")
    for name in here if job.url is not None else elsewhere:
        if getattr(job, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            why = "does nothing with --url: the server has its own" if job.url is not None else "needs --url"
            msg = f"{flag} {why}; remove it"
            raise InvalidRequest(msg)


async def _until_signal(work: Coroutine[Any, Any, None]) -> int | None:
    """Let `work` end by itself, or cancel it at the first signal, which is returned; a second one ends the process."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        for each in handled:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    # What this process was started to ignore (nohup, a job in the background) stays ignored.
    handled = [each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    for each in handled:
        loop.add_signal_handler(each, stop, each)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
    return received[0] if received else None


async def _work(
    opening: AbstractAsyncContextManager[Embedder],
    records: Records,
    output: Checkpoint | Stream,
    destination: Destination,
    tally: Tally,
) -> None:
    texts = records.texts
    with Steps.shown(is_wanted=not destination.is_terminal) as steps:
        steps.start("loading", None)
        async with opening as embedder:
            output.begin(embedder.facts, embedder.dimension)
            tally.resumed = output.done
            if output.done:
                message = f"going on with an interrupted run: {output.done} of {len(texts)} texts are done"
                click.echo(f"emb-provider: {message} (--restart begins anew)", err=True)
            rest = texts[output.done :]
            steps.start("checking", len(rest))
            await embedder.check(rest, steps.advance)
            steps.start("embedding", len(texts), output.done)
            with tally.timed():
                await _embed_all(embedder, rest, output, steps, tally)
        steps.start("writing", len(texts))
        for rows in output.finish():
            steps.advance(rows)
            await asyncio.sleep(0)
    summary = tally.shown(destination.name, embedder.model, embedder.fingerprint, records.skipped)
    click.echo(f"emb-provider: {summary}", err=True)


async def _embed_all(
    embedder: Embedder, records: Sequence[Record], output: Checkpoint | Stream, steps: Steps, tally: Tally
) -> None:
    """Embed and write, with several calls under way, in the order of the records."""
    under_way: deque[tuple[Sequence[Record], asyncio.Task[Embedded]]] = deque()

    async def finish_first() -> None:
        chunk, task = under_way[0]
        embedded = await task
        under_way.popleft()
        output.append(chunk, embedded.vectors)
        tally.add(chunk, embedded)
        steps.advance(len(chunk))

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
