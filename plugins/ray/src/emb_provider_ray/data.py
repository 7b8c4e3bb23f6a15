"""Ray Data: vectors for a column of a dataset, from engines in a pool of actors or from running servers."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from attrs import frozen
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayTaskError

from emb_provider_ray.checks import check_columns, check_counts, check_dataset, check_room
from emb_provider_ray.placement import check_reserved
from emb_provider_ray.room import Reservation, free
from provider.bulk.calls import chunks, in_order
from provider.bulk.embedder import Embedder, Options
from provider.bulk.engine import EngineEmbedder
from provider.bulk.formats import VECTOR_FIELD, schema_metadata, vector_column
from provider.bulk.job import DEFAULT_BATCH_SIZE
from provider.bulk.server import servers
from provider.cores import Worker
from provider.domain import Truncation
from provider.errors import InvalidRequest, ModelFailed, ProviderError
from provider.settings import Settings
from provider.texts.records import DEFAULT_FIELD, Record

_log = logging.getLogger(__name__)
_ROWS_PER_CALL = 4096
# After so long it is told that the model is waited for.
_TELL_SECONDS = 30.0


@frozen
class Source:
    """What makes the vectors, in any process of the cluster.

    Attributes:
        options: asked for with every text.
        settings: of an engine with one model; None to ask `urls`.
        cores: of the engine.
        urls: of servers.
        model: of the servers; None for the first one that each lists.
        api_key: for the servers; None for `OPENAI_API_KEY` of the process.
        batch_size: texts of one request to a server.
    """

    options: Options
    settings: Settings | None
    cores: int
    urls: Sequence[str]
    model: str | None
    api_key: str | None
    batch_size: int

    def opened(self) -> AbstractAsyncContextManager[Embedder]:
        """The embedder, ready.

        Raises:
            ProviderError: the model cannot be loaded, or no server answers.
        """
        if self.settings is not None:
            return EngineEmbedder.opened(self.settings, self.options, worker=Worker(most_cores=self.cores))
        return servers(
            self.urls,
            self.options,
            model=self.model,
            api_key=self.api_key or os.environ.get("OPENAI_API_KEY"),
            batch_size=self.batch_size,
            notify=_log.warning,
        )


class EmbeddingActor:
    """What Ray Data starts as often as there are actors: it loads the model once, and embeds batch after batch."""

    def __init__(self, source: Source, column: str, to: str, about: Mapping[str, object]) -> None:
        """Load the model, or find the servers.

        Args:
            source: of vectors.
            column: with the texts.
            to: column for the vectors.
            about: what made them, for the schema's metadata; with the fingerprint.

        Raises:
            ProviderError: see `Source.opened`; or the model here is another one.
        """
        self._column, self._to, self._about = column, to, about
        self._runner, stack = asyncio.Runner(), AsyncExitStack()
        # The process ends with the pool, and nothing is to be closed before.
        self._embedder: Embedder = self._runner.run(stack.enter_async_context(source.opened()))
        self._stack = stack
        if (found := self._embedder.fingerprint) != about["fingerprint"]:
            msg = f"this node has another model than the first: fingerprint {found}, not {about['fingerprint']}"
            raise ModelFailed(msg)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The same rows with their vectors.

        Raises:
            ProviderError: a row cannot be embedded, or the servers do not answer any more.
        """
        vectors = self._runner.run(self._vectors(self._records(table)))
        metadata = {**(table.schema.metadata or {}), **schema_metadata(self._about)}
        return table.append_column(self._to, vector_column(vectors)).replace_schema_metadata(metadata)

    def _records(self, table: pa.Table) -> list[Record]:
        check_columns(table.column_names, self._column, self._to)
        texts = table.column(self._column).to_pylist()
        records = [Record(text, f"a batch, column {self._column!r}", i, "row") for i, text in enumerate(texts, 1)]
        for record in records:
            if not isinstance(record.text, str):
                kind = type(record.text).__name__
                msg = f"{record.place}: expected a text, got {kind}; filter such rows before"
                raise InvalidRequest(msg)
        return records

    async def _vectors(self, records: Sequence[Record]) -> np.ndarray[Any, Any]:
        embedder = self._embedder
        parts = [np.empty((0, embedder.dimension), np.float32)]
        async with aclosing(in_order(chunks(records, embedder), embedder.embed, embedder.most_calls)) as results:
            async for _, embedded in results:
                parts.append(embedded.vectors)
        return np.concatenate(parts)


def embed_dataset(
    ds: Dataset,
    column: str = DEFAULT_FIELD,
    settings: Settings | None = None,
    *,
    urls: Sequence[str] = (),
    model: str | None = None,
    api_key: str | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    to: str = VECTOR_FIELD,
    actors: int | tuple[int, int] = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    resources: Mapping[str, float] | None = None,
    rows_per_call: int = _ROWS_PER_CALL,
    dimensions: int | None = None,
    truncate: Truncation | None = None,
    normalize: bool | None = None,
    input_type: str | None = None,
    prompt_name: str | None = None,
) -> Dataset:
    """The dataset with a column of vectors, computed when it is consumed.

    One process of the cluster loads the model, or asks the servers, before this returns: what is wrong is known then,
    and every actor has to have the same model. A block whose actor or node is lost runs again on another one.

    Args:
        ds: with texts.
        column: of the texts.
        settings: of the engine; its `model` is run, in each actor. None to ask `urls`.
        urls: base URLs of servers with the same model. Each is asked for as much as it takes; one that answers 429 or
            503 is left alone for as long as its `Retry-After` says.
        model: of the servers; None for the first one that they list.
        api_key: for the servers; None for `OPENAI_API_KEY` of the actors' environment.
        batch_size: texts of one request to a server.
        to: column of the vectors, lists of float32 of fixed size.
        actors: how many; or fewest and most, and Ray Data decides.
        num_cpus: cores of an actor; its engine takes as many.
        num_gpus: accelerators of an actor.
        resources: further resources of Ray that an actor takes.
        rows_per_call: rows that an actor gets at a time; smaller blocks are put together.
        dimensions: as in `EmbedRequest`, like the next four.
        truncate: what happens to texts that are too long.
        normalize: whether vectors have unit length.
        input_type: `query`, `document` or a prompt's name.
        prompt_name: a key of the model's prompts.

    Raises:
        InvalidRequest: an option is at fault, the dataset is known to have other columns, or no node has what an
            actor reserves and no autoscaler may start one.
        SettingsError: an amount that an actor reserves is none.
        ProviderError: the model cannot be loaded, or no server answers.
    """
    if (settings is None) == (not urls):
        msg = "embed_dataset: give settings with a model, or urls of servers"
        raise InvalidRequest(msg)
    if isinstance(urls, str):
        msg = f"embed_dataset: urls: got {urls!r}; give a list of URLs"
        raise InvalidRequest(msg)
    check_counts(actors, rows_per_call=rows_per_call, batch_size=batch_size)
    check_reserved("embed_dataset: ", num_cpus, num_gpus, resources or {})
    check_dataset(ds, column, to)
    source = Source(
        Options(dimensions, truncate, normalize, input_type, prompt_name),
        None if settings is None else settings.for_one_caller(settings.model),
        max(1, int(num_cpus)),
        tuple(urls),
        model,
        api_key,
        batch_size,
    )
    size = {"size": actors} if isinstance(actors, int) else {"min_size": actors[0], "max_size": actors[1]}
    reserved = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": dict(resources or {})}
    return ds.map_batches(
        EmbeddingActor,
        batch_size=rows_per_call,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(**size),
        fn_constructor_kwargs={"source": source, "column": column, "to": to, "about": _about(source, reserved)},
        **reserved,
    )


def _about(source: Source, reserved: Mapping[str, Any]) -> dict[str, object]:
    """What the vectors will be made by."""
    if not ray.is_initialized():
        ray.init()
    check_room(Reservation.of("embed_dataset", **reserved))
    call = ray.remote(**reserved)(_describe).remote(source)
    try:
        if not ray.wait([call], timeout=_TELL_SECONDS)[0]:
            _log.warning(
                "embed_dataset: no process has loaded the model for %g s; free in the cluster: %s",
                _TELL_SECONDS,
                free(),
            )
        about: dict[str, object] = ray.get(call)
    except RayTaskError as exc:
        if isinstance(exc.cause, ProviderError):
            raise exc.cause from None
        raise
    return about


def _describe(source: Source) -> dict[str, object]:
    async def described() -> dict[str, object]:
        async with source.opened() as embedder:
            return {**embedder.about, **embedder.facts, "fingerprint": embedder.fingerprint}

    return asyncio.run(described())
