"""Vectors of inputs seen before, bounded in bytes and time, and the rows in flight (single flight).

Used on the event loop's thread only, so there is nothing to lock.
"""

import time
from collections.abc import Callable
from weakref import WeakValueDictionary

import numpy as np
from cachetools import TTLCache
from numpy.typing import NDArray

from provider.domain import CacheKey
from provider.engine.rows import Row
from provider.settings import CacheSettings

# What Python keeps for an entry beside the vector's bytes: key, array object, hash table, the TTL's links.
_ENTRY_BYTES = 600

Vector = NDArray[np.float32]


class VectorCache:
    """Full, un-normalised vectors by `CacheKey`. With caching off it holds nothing and shares no flights."""

    def __init__(self, settings: CacheSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_enabled = settings.enabled
        self._vectors: TTLCache[CacheKey, Vector] = TTLCache(
            maxsize=settings.max_bytes if settings.enabled else 0,
            ttl=settings.ttl_seconds,
            timer=clock,
            getsizeof=lambda vector: vector.nbytes + _ENTRY_BYTES,
        )
        # Weak: a row that nobody waits for any more is dropped by the batcher, and so disappears here.
        self._flying: WeakValueDictionary[CacheKey, Row] = WeakValueDictionary()

    @property
    def bytes(self) -> int:
        """Bytes accounted for."""
        return int(self._vectors.currsize)

    def get(self, key: CacheKey) -> Vector | None:
        """The vector (dimension,) kept under `key`; not to be written to."""
        try:
            found: Vector = self._vectors[key]
        except KeyError:
            return None
        return found

    def in_flight(self, key: CacheKey) -> Row | None:
        """The row that will have the vector of `key`, if someone waits for it right now."""
        row = self._flying.get(key)
        return row if row is not None and row.is_wanted else None

    def takes_off(self, row: Row) -> None:
        """Remember a row that was just admitted."""
        if self.is_enabled and row.key is not None:
            self._flying[row.key] = row

    def lands(self, row: Row) -> None:
        """Keep a finished row's vector, forget the flight. A failed row leaves nothing behind."""
        if row.key is None or not self.is_enabled:
            return
        if self._flying.get(row.key) is row:
            del self._flying[row.key]
        if row.vector is not None and np.isfinite(row.vector).all():
            # A copy: the row is a view of its whole batch, which would live as long as the view.
            vector = row.vector.copy()
            vector.flags.writeable = False
            if vector.nbytes + _ENTRY_BYTES <= self._vectors.maxsize:
                self._vectors[row.key] = vector
