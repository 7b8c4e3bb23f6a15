"""Rows on their way through a model, and the requests that wait for them.

Everything here happens on the event loop's thread; lanes only read `Row.ids`, `Row.skip` and `Row.is_wanted`.
"""

import asyncio
from collections.abc import Sequence

import numpy as np
from attrs import define, field
from numpy.typing import NDArray

from provider.domain import CacheKey, Ids
from provider.errors import EmbeddingFailed


@define(eq=False)
class Row:
    """One input to be embedded. Several requests may wait for it (single flight).

    Attributes:
        ids: token ids, special tokens included.
        skip: leading tokens left out of pooling.
        key: under which its vector is kept; None where the cache is off.
        vector: (dimension,) float32 once embedded, pooled, not normalised.
        error: what went wrong instead.
        queue_seconds: time it waited for a lane.
        forward_seconds: time of the forward pass it was part of.
    """

    ids: Ids
    skip: int = 0
    key: CacheKey | None = None
    vector: NDArray[np.float32] | None = None
    error: Exception | None = None
    enqueued_at: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0
    _tickets: list["Ticket"] = field(factory=list, init=False)

    @property
    def tokens(self) -> int:
        """Its length."""
        return len(self.ids)

    @property
    def is_wanted(self) -> bool:
        """Whether anyone still waits for it: a row whose callers are gone is not run."""
        return bool(self._tickets)

    @property
    def is_settled(self) -> bool:
        """Whether it has a vector or an error."""
        return self.vector is not None or self.error is not None

    def settle(self, *, vector: NDArray[np.float32] | None = None, error: Exception | None = None) -> None:
        """Record the outcome and tell everyone who waits."""
        self.vector, self.error = vector, error
        for ticket in tuple(self._tickets):
            ticket.row_settled(self)
        self._tickets.clear()


class Ticket:
    """One request's wait for its rows: one future however many rows there are."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Start waiting for `rows`; call it on the event loop's thread, before anything else can run there."""
        self._rows = rows
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = 0
        for row in {id(row): row for row in rows}.values():
            if not row.is_settled:
                row._tickets.append(self)  # noqa: SLF001 - the two halves of one mechanism
                self._open += 1
        if not self._open:
            self._future.set_result(None)

    async def wait(self) -> None:
        """Return when every row has a vector.

        Raises:
            EmbeddingFailed: a row failed; the first failure ends the wait and names its input.
            asyncio.CancelledError: the caller is gone; rows that nobody else waits for will not run.
        """
        try:
            await self._future
        finally:
            self.leave()

    def leave(self) -> None:
        """Stop waiting."""
        for row in self._rows:
            if self in row._tickets:  # noqa: SLF001
                row._tickets.remove(self)  # noqa: SLF001

    def row_settled(self, row: Row) -> None:
        """Called by a row once it has a vector or an error."""
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
        index = next(i for i, each in enumerate(self._rows) if each is row)
        named = EmbeddingFailed(error.reason, index=index)
        named.__cause__ = error
        return named
