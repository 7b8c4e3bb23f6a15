"""From a request to the model's outputs: token ids, cache and its store, single flight, queue. For every task."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from provider.domain import CacheKey, Caller, EmbedRequest, Features, ScoreRequest, Timings, Truncated, Usage
from provider.engine.cache import OutputCache
from provider.engine.encoding import Room, Waiting, truncations
from provider.engine.loading import ModelParts
from provider.engine.rows import Row, Ticket
from provider.engine.runtime import ModelRuntime
from provider.engine.stored_outputs import RowOutputs
from provider.engine.truncation import Encoded
from provider.errors import EmbeddingFailed

Charge = Callable[[Caller, int], None]
"""Told of a request's tokens before it is answered; what it raises refuses the request."""


class Executed(NamedTuple):
    """What became of a request's inputs.

    Attributes:
        features: of each input: what went into the model.
        outputs: of each input, as the model gave them.
        truncated: the inputs that were cut.
        key: of the only input, if its outputs were in the cache.
        tokens: of each input, as `usage` has them together.
        cached: of each input, whether its outputs were in the cache.
    """

    features: Sequence[Features]
    outputs: Sequence[RowOutputs]
    truncated: tuple[Truncated, ...]
    usage: Usage
    timings: Timings
    key: CacheKey | None
    tokens: Sequence[int]
    cached: Sequence[bool]


async def execute(
    encode: Callable[..., Awaitable[Sequence[Encoded]]],
    runtime: ModelRuntime,
    model: ModelParts,
    request: EmbedRequest | ScoreRequest,
    *,
    cache: OutputCache,
    charge: Charge | None,
    max_tokens: int,
    caller: Caller,
    waiting: Waiting | None,
) -> Executed:
    """Tokenise the inputs of `request`, run those that the cache does not have, and wait for all.

    Args:
        encode: `encode_inputs` or `encode_scored`.
        runtime: runs the model.
        model: what it has loaded.
        request: whose inputs they are.
        cache: of outputs.
        charge: told of the tokens before they are run.
        max_tokens: most tokens of all inputs together.
        caller: who asks.
        waiting: put around what may take long.

    Raises:
        RequestError: as `encode`.
        LimitExceeded: `charge` refuses the tokens.
        NotAvailable: the queue has no room in time, or the service ends.
        EmbeddingFailed: the forward pass of an input failed; the error names it.
    """
    started = time.monotonic()
    fingerprint = model.fingerprint
    room = Room(partial(runtime.check_room, caller=caller), partial(cache.is_at_hand, fingerprint), cache.seen)
    encoded = await encode(model, runtime.settings, request, max_tokens=max_tokens, room=room, waiting=waiting)
    inputs = [each.features for each in encoded]
    tokens = [len(each.ids) for each in inputs]
    if charge is not None:
        charge(caller, sum(tokens))
    keys = [CacheKey(fingerprint, each.digest()) for each in inputs] if cache.is_enabled else ()
    tokenised = queued = time.monotonic()
    instants: tuple[float, ...] = (started, tokenised)
    stored: Mapping[CacheKey, RowOutputs] = {}
    if cache.has_store and (wanted := cache.to_fetch(keys, inputs)):
        stored = await cache.fetch(wanted)
        queued = time.monotonic()
        instants = (*instants, queued)
    sources, new = _sources(cache, keys, inputs, caller, stored)
    rows = [source for source in sources if isinstance(source, Row)]
    timings = Timings(tokenised - started, instants=instants, store_seconds=queued - tokenised)
    if rows:
        await _run(runtime, cache, new, Ticket(rows, among=sources), waiting)
        timings = Timings(
            tokenised - started,
            max([row.queue_seconds for row in rows]),
            max([row.forward_seconds for row in rows]),
            (*instants, *_passes(rows, queued)),
            queued - tokenised,
        )
    return Executed(
        inputs,
        [_outputs(source) for source in sources],
        truncations(encoded),
        Usage(len(inputs), sum(tokens), len(inputs) - len(rows), sum([key in stored for key in keys]) if stored else 0),
        timings,
        keys[0] if len(keys) == 1 and not rows else None,
        tokens,
        [not isinstance(source, Row) for source in sources],
    )


def _passes(rows: Sequence[Row], queued: float) -> tuple[float, float]:
    """When the first pass with one of these rows began, and when the last one ended.

    Another request may have brought a row into the queue before this one's were `queued`.
    """
    began = [row.enqueued_at + row.queue_seconds for row in rows]
    ended = max([begin + row.forward_seconds for begin, row in zip(began, rows, strict=True)])
    return max(queued, min(began)), max(queued, ended)


def _sources(
    cache: OutputCache,
    keys: Sequence[CacheKey],
    inputs: Sequence[Features],
    caller: Caller,
    stored: Mapping[CacheKey, RowOutputs],
) -> tuple[Sequence[RowOutputs | Row], Sequence[Row]]:
    """What gives the outputs of each input: they are at hand, or a row brings them. And the rows that are new."""
    if not cache.is_enabled:
        new = [Row(each, caller=caller) for each in inputs]
        return new, new
    sources: list[RowOutputs | Row] = []
    created: dict[CacheKey, Row] = {}
    for key, each in zip(keys, inputs, strict=True):
        source = cache.get(key) or stored.get(key) or created.get(key) or cache.pending(key)
        if source is None:
            source = created[key] = Row(each, key, caller)
        sources.append(source)
    return sources, list(created.values())


async def _run(
    runtime: ModelRuntime, cache: OutputCache, new: Sequence[Row], ticket: Ticket, waiting: Waiting | None
) -> None:
    try:
        if new:
            runtime.submit(new)
    except BaseException:
        ticket.leave()
        raise
    for row in new:
        cache.add_pending(row)
    try:
        await (ticket.wait() if waiting is None else waiting(ticket.wait()))
    except EmbeddingFailed as exc:
        if not runtime.prober.has_failed:
            raise
        raise EmbeddingFailed(exc.reason, index=exc.index, is_lasting=False) from exc


def _outputs(source: RowOutputs | Row) -> RowOutputs:
    outputs = source.outputs if isinstance(source, Row) else source
    if outputs is None:  # a ticket only ends without an error when every row has its outputs
        msg = "a row that was waited for has no outputs"
        raise AssertionError(msg)
    return outputs
