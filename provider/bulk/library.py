"""Bulk embedding for programs: what `emb-provider embed` does, as a function."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from provider.bulk.embedder import Options
from provider.bulk.job import DEFAULT_BATCH_SIZE, EmbedJob
from provider.bulk.progress import ProgressBars, RunSummary
from provider.bulk.run import Run
from provider.domain import Truncation
from provider.errors import InvalidRequest
from provider.settings import Settings
from provider.texts.records import ReadOptions

_log = logging.getLogger(__name__)


def embed_file(
    file: str | Path | Sequence[str | Path],
    output: str | Path,
    settings: Settings | None = None,
    *,
    processes: int = 1,
    urls: Sequence[str] = (),
    model: str | None = None,
    api_key: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    field: str | None = None,
    column: str | None = None,
    skip_empty: bool = False,
    rows_per_shard: int | None = None,
    restart: bool = False,
    dimensions: int | None = None,
    truncate: Truncation | None = None,
    normalize: bool | None = None,
    input_type: str | None = None,
    prompt_name: str | None = None,
    show_progress: bool = False,
) -> RunSummary:
    """Embed the texts in files into a file or into shards, and return when all is written.

    A call that was interrupted is continued by the same call; one that was completed is made again, except for shards,
    which are kept. May be called from any thread, with or without a running event loop.

    Args:
        file: of texts, or several: text, CSV, TSV, JSON, JSON lines or Parquet, by its name.
        output: a file that ends in .npy, .jsonl or .parquet, or a folder for shards of Parquet, which exists or ends in
            `/`.
        settings: of the engine; its `model` is run. None to ask `urls`.
        processes: engines, each in a process with its share of the cores, or on a GPU of its own; 1: in this process.
        urls: base URLs of servers with the same model, instead of an engine.
        model: of the servers; None for the first one that they list.
        api_key: for the servers.
        batch_size: texts of one request to a server.
        field: of JSON objects that holds the text; None for `text`.
        column: of tables that holds the text, by name or by number from 1; None for `text`.
        skip_empty: leave empty texts out instead of failing.
        rows_per_shard: None for 100,000.
        restart: begin anew instead of going on where an interrupted call ended.
        dimensions: as in `EmbedRequest`, like the next four.
        truncate: what happens to texts that are too long.
        normalize: whether vectors have unit length.
        input_type: `query`, `document` or a prompt's name.
        prompt_name: a key of the model's prompts.
        show_progress: whether standard error shows how far it is, if that is a terminal.

    Raises:
        InvalidRequest: a text, an option or the output is at fault, or an interrupted call had others.
        ProviderError: the model cannot be loaded or fails, or a server does not answer.
    """
    if (settings is None) == (not urls):
        msg = "embed_file: give settings with a model, or urls of servers"
        raise InvalidRequest(msg)
    job = EmbedJob(
        texts=(),
        files=tuple(Path(each) for each in ([file] if isinstance(file, str | Path) else file)),
        reading=ReadOptions("auto", field, column, empty="skip" if skip_empty else "refuse"),
        output=str(output),
        output_format="auto",
        restart=restart,
        options=Options(dimensions, truncate, normalize, input_type, prompt_name),
        shard_rows=rows_per_shard,
        engine=None if settings is None else settings.for_one_caller(settings.model),
        processes=processes,
        urls=tuple(urls),
        model=model,
        api_key=api_key,
        batch_size=batch_size,
    )
    with ProgressBars.shown(is_wanted=show_progress) as bars, Run.prepared(job, bars, _log.warning) as run:
        return _finished(run)


def _finished(run: Run) -> RunSummary:
    """Embed on an event loop in a thread of its own: this one's may be running."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(run.embed())

    def work() -> RunSummary:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(_result_of(task))

    with ThreadPoolExecutor(1, "embed_file") as thread:
        future = thread.submit(work)
        try:
            return future.result()
        except BaseException:
            # Interrupted: what is kept is closed before this returns.
            if not future.done():
                loop.call_soon_threadsafe(task.cancel)
            raise


async def _result_of(task: "asyncio.Task[RunSummary]") -> RunSummary:
    return await task
