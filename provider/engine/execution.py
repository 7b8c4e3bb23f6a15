"""From tokenised inputs to the model's outputs: cache, single flight, queue. The same for every task."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from provider.domain import CacheKey, Caller, Features, Timings, Usage
from provider.engine.cache import OutputCache, RowOutputs
from provider.engine.encoding import Waiting
from provider.engine.rows import Row, Ticket
from provider.engine.runtime import ModelRuntime
from provider.errors import EmbeddingFailed

Charge = Callable[[Caller, int], None]
"""Told of a request's tokens before it is answered; what it raises refuses the request."""


class Executed(NamedTuple):
    """What became of a request's inputs.

    Attributes:
        outputs: of each input, as the model gave them.
        key: of the only input, if its outputs were in the cache.
    """

    outputs: Sequence[RowOutputs]
    usage: Usage
    timings: Timings
    key: CacheKey | None


async def execute(
    runtime: ModelRuntime,
    fingerprint: str,
    inputs: Sequence[Features],
    *,
    cache: OutputCache,
    charge: Charge | None,
    caller: Caller,
    started: float,
    waiting: Waiting | None = None,
) -> Executed:
    """Run the inputs that the cache does not have, and wait for all; tokenising them had `started`.

    Raises:
        LimitExceeded: `charge` refuses the tokens.
        NotAvailable: the queue has no room in time, or the service ends.
        EmbeddingFailed: the forward pass of an input failed; the error names it.
    """
    tokens = sum([len(each.ids) for each in inputs])
    if charge is not None:
        charge(caller, tokens)
    keys = [CacheKey(fingerprint, each.digest()) for each in inputs] if cache.is_enabled else ()
    sources, new = _sources(cache, keys, inputs, caller)
    rows = [source for source in sources if isinstance(source, Row)]
    tokenised = time.monotonic()
    instants = (started, tokenised)
    timings = Timings(tokenised - started, instants=instants)
    if rows:
        await _run(runtime, cache, new, rows, waiting)
        timings = Timings(
            tokenised - started,
            max([row.queue_seconds for row in rows]),
            max([row.forward_seconds for row in rows]),
            (*instants, *_passes(rows, tokenised)),
        )
    key = keys[0] if len(keys) == 1 and not rows else None
    usage = Usage(len(inputs), tokens, len(inputs) - len(rows))
    return Executed([_outputs(source) for source in sources], usage, timings, key)


def _passes(rows: Sequence[Row], tokenised: float) -> tuple[float, float]:
    """When the first pass with one of these rows began, and when the last one ended.

    Another request may have brought a row into the queue before this one was `tokenised`.
    """
    began = [row.enqueued_at + row.queue_seconds for row in rows]
    ended = max([begin + row.forward_seconds for begin, row in zip(began, rows, strict=True)])
    return max(tokenised, min(began)), max(tokenised, ended)


def _sources(
    cache: OutputCache, keys: Sequence[CacheKey], inputs: Sequence[Features], caller: Caller
) -> tuple[Sequence[RowOutputs | Row], Sequence[Row]]:
    """What gives the outputs of each input: they are at hand, or a row brings them. And the rows that are new."""
    if not cache.is_enabled:
        new = [Row(each, caller=caller) for each in inputs]
        return new, new
    sources: list[RowOutputs | Row] = []
    created: dict[CacheKey, Row] = {}
    for key, each in zip(keys, inputs, strict=True):
        source = cache.get(key) or created.get(key) or cache.pending(key)
        if source is None:
            source = created[key] = Row(each, key, caller)
        sources.append(source)
    return sources, list(created.values())


async def _run(
    runtime: ModelRuntime, cache: OutputCache, new: Sequence[Row], rows: Sequence[Row], waiting: Waiting | None
) -> None:
    ticket = Ticket(rows)
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
