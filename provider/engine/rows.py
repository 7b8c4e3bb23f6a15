"""Rows on their way through a model, and the requests that wait for them.

Everything here happens on the event loop's thread; lanes only read `Row.features` and `Row.is_wanted`.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field

from provider.domain import ANONYMOUS, CacheKey, Caller, Features, RowOutput, Tier
from provider.errors import EmbeddingFailed, NotAvailable


@define(eq=False)
class Row:
    """One input on its way. Several requests may wait for it (single flight).

    Attributes:
        features: what goes into the model.
        tokens: its length; kept here because the batcher reads it several times.
        key: under which its outputs are kept; None where the cache is off.
        caller: who sent the request that it was made for; others may have joined.
        outputs: name to output once the model has run, as the backend gave them.
        error: what went wrong instead.
        withdraw: called with the rows that a request leaves behind, once they wait in a queue.
        tier: in which it waits.
        request, order: its request's number and its own in the queue; an order of 0: it is not in the queue.
        due: when its outputs come too late for its request, by the clock that stamps `enqueued_at`.
        queue_seconds: time it waited for a lane.
        forward_seconds: time of the forward pass it was part of.
    """

    features: Features
    key: CacheKey | None = None
    caller: Caller = ANONYMOUS
    outputs: Mapping[str, RowOutput] | None = None
    error: Exception | None = None
    withdraw: Callable[[Sequence["Row"]], None] | None = None
    tier: Tier = "interactive"
    request: int = 0
    order: int = 0
    enqueued_at: float = 0.0
    due: float = math.inf
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0
    tokens: int = field(init=False)
    _tickets: list["Ticket"] = field(factory=list, init=False)

    @tokens.default
    def _cost(self) -> int:
        return self.features.cost

    @property
    def is_wanted(self) -> bool:
        """Whether anyone still waits for it: a row whose callers are gone is not run."""
        return bool(self._tickets)

    @property
    def is_settled(self) -> bool:
        """Whether it has outputs or an error."""
        return self.outputs is not None or self.error is not None

    def settle(self, *, outputs: Mapping[str, RowOutput] | None = None, error: Exception | None = None) -> None:
        """Record the outcome and tell everyone who waits."""
        self.outputs, self.error = outputs, error
        for ticket in tuple(self._tickets):
            ticket.row_settled(self)
        self._tickets.clear()


def fail_rows(rows: Sequence[Row], error: NotAvailable) -> None:
    """Settle those that have no outcome yet with `error`."""
    for row in rows:
        if not row.is_settled:
            row.settle(error=error)


class Ticket:
    """One request's wait for its rows: one future however many rows there are."""

    def __init__(self, rows: Sequence[Row], *, among: Sequence[object] | None = None) -> None:
        """Start waiting for `rows`; call it on the event loop's thread, before anything else can run there.

        Args:
            rows: of the request.
            among: what the outputs of each input come from, rows among them; None where they all come from rows.
        """
        self._rows, self._among = rows, rows if among is None else among
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = 0
        for row in {id(row): row for row in rows}.values():
            if not row.is_settled:
                row._tickets.append(self)  # noqa: SLF001 - the two halves of one mechanism
                self._open += 1
        if not self._open:
            self._future.set_result(None)

    async def wait(self) -> None:
        """Return when every row has its outputs.

        Raises:
            EmbeddingFailed: a row failed; the first failure ends the wait and names its input.
            asyncio.CancelledError: the caller is gone; rows that nobody else waits for will not run.
        """
        try:
            await self._future
        finally:
            self.leave()

    def leave(self) -> None:
        """Stop waiting; rows that nobody else waits for leave the queue."""
        unwanted = []
        for row in self._rows:
            if self in row._tickets:  # noqa: SLF001
                row._tickets.remove(self)  # noqa: SLF001
                if not row.is_wanted:
                    unwanted.append(row)
        # Rows that it joined may wait in the queue of another model with the same fingerprint.
        for withdraw in {row.withdraw for row in unwanted}:
            if withdraw is not None:
                withdraw([row for row in unwanted if row.withdraw == withdraw])

    def row_settled(self, row: Row) -> None:
        """Called by a row once it has outputs or an error."""
        self._open -= 1
        if self._future.done():
            return
        if row.error is not None:
            self._future.set_exception(self._naming_the_input(row, row.error))
        elif self._open == 0:
            self._future.set_result(None)

    def _naming_the_input(self, row: Row, error: Exception) -> Exception:
        if not isinstance(error, EmbeddingFailed):
            return error
        index = next(i for i, each in enumerate(self._among) if each is row)
        named = EmbeddingFailed(error.reason, index=index, is_lasting=error.is_lasting)
        named.__cause__ = error
        return named
