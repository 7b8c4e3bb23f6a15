"""What a run of bulk embedding is asked for."""

from pathlib import Path

from attrs import frozen

from provider.bulk.embedder import Options
from provider.settings import Settings
from provider.texts.records import ReadOptions

DEFAULT_BATCH_SIZE = 64
"""Texts of a request to a server."""


@frozen
class EmbedJob:
    """What is embedded, by what, and where the vectors go.

    Attributes:
        texts: arguments; `-` stands for standard input.
        files: of texts; `-` is standard input.
        reading: how to read them.
        output: a file, or a folder for shards, which exists or ends in `/`; None and `-` are standard output.
        output_format: a name in `FORMATS`, or `auto`.
        shard_rows: rows of a shard; None for the usual number.
        restart: begin anew instead of going on where an interrupted run ended.
        options: asked for with every text.
        engine: settings of the engine in this process; None to ask the servers at `urls`.
        prompt: what stood behind the name of the engine's model, as in `name:query`.
        processes: with an engine each; 1 for this process alone.
        urls: base URLs of servers.
        model: of the servers; None for the first one that each lists.
        api_key: for the servers.
        batch_size: texts of one request to a server.
    """

    texts: tuple[str, ...]
    files: tuple[Path, ...]
    reading: ReadOptions
    output: str | None
    output_format: str
    restart: bool
    options: Options
    shard_rows: int | None = None
    engine: Settings | None = None
    prompt: str | None = None
    processes: int = 1
    urls: tuple[str, ...] = ()
    model: str | None = None
    api_key: str | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
