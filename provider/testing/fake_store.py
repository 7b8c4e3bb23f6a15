"""A vector store in memory, which fails, waits and damages entries on command."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Self

from cachetools import TTLCache

from provider.vector_stores import NoOptions, StoreOptions

_GATE_SECONDS = 240


class FakeVectorStore:
    """For tests of everything around a store. Stores that are opened with the same `url` share their entries.

    Attributes:
        entries: what is kept.
        reads, writes: what it was asked, in order.
        gate: clear it to hold calls, set it to let them go.
        failing: while True every call fails.
        full: while True every write fails.
        ignores_cancelling: whether a call that is held goes on when it is cancelled.
        closed: how often `close` was called.
    """

    Options: ClassVar[type] = NoOptions
    _shared: ClassVar[dict[str, TTLCache[bytes, bytes]]] = {}

    def __init__(self, entries: "TTLCache[bytes, bytes] | None" = None) -> None:
        """A store with its own entries, or with given ones."""
        self.entries = TTLCache[bytes, bytes](2**16, 3600) if entries is None else entries
        self.reads: list[Sequence[bytes]] = []
        self.writes: list[Mapping[bytes, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing = self.full = self.ignores_cancelling = False
        self.closed = 0

    @classmethod
    def open(cls, options: StoreOptions, clock: Callable[[], float] = time.monotonic) -> Self:
        """See `VectorStore.open`."""
        entries = TTLCache[bytes, bytes](2**16, options.ttl_seconds, timer=clock)
        return cls(entries if options.url is None else cls._shared.setdefault(options.url, entries))

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See `VectorStore.get_many`."""
        self.reads.append(keys)
        await self._pass()
        return [self.entries.get(key) for key in keys]

    async def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """See `VectorStore.set_many`."""
        self.writes.append(entries)
        await self._pass()
        if self.full:
            msg = "the fake store is full, as it was told to be"
            raise OSError(msg)
        self.entries.update(entries)

    async def close(self) -> None:
        """See `VectorStore.close`."""
        self.closed += 1

    async def _pass(self) -> None:
        while not self.gate.is_set():
            try:
                # A test that forgets its gate fails instead of hanging.
                await asyncio.wait_for(self.gate.wait(), _GATE_SECONDS)
            except asyncio.CancelledError:
                if not self.ignores_cancelling:
                    raise
        if self.failing:
            msg = "the fake store fails, as it was told to"
            raise ConnectionError(msg)
