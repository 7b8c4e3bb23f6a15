"""Outputs of inputs seen before, responses written from them, and the rows under way (single flight).

This is the first level; `stored_outputs` is the second.

Used on the event loop's thread only, so there is nothing to lock.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from attrs import frozen
from cachetools import TTLCache

from provider.domain import CacheKey, Features, RowOutput, SparseVector
from provider.engine.hooks import RequestAnswered
from provider.engine.rows import Row
from provider.engine.stored_outputs import RowOutputs, StoredOutputs
from provider.settings import CacheSettings

# What an entry takes beside the outputs' bytes and its share of the tables, as measured under mixed traffic: key,
# mapping, array objects, the TTL's link, and gaps between entries that come and go.
_ENTRY_BYTES = 750
# Room for its share of three hash tables, which double at once: a table of Python's has up to six slots an entry.
_TABLE_BYTES = 450

# More than outputs fit into the default bound.
_SLOTS = 1 << 20


@frozen(eq=False)
class CachedResponse:
    """The response to a request with one input.

    Attributes:
        content: what is sent, in the form that the engine's caller chose.
        size: its bytes.
        key: of the outputs that it was written from.
        event: what listeners are told when it is sent.
    """

    content: Any
    size: int
    key: CacheKey
    event: RequestAnswered


class SeenTexts:
    """Which texts came lately, by their hashes: to be known before a text is tokenised. A few are known by mistake."""

    def __init__(self) -> None:
        """None came."""
        self._newer, self._older = bytearray(_SLOTS), bytearray(_SLOTS)
        self._room = _SLOTS // 4

    def add(self, texts: Sequence[str]) -> None:
        """These came. The last 262,144 at least are known."""
        for text in texts:
            self._newer[hash(text) % _SLOTS] = 1
        self._room -= len(texts)
        if self._room <= 0:
            self._newer, self._older = bytearray(_SLOTS), self._newer
            self._room = _SLOTS // 4

    def __contains__(self, text: str) -> bool:
        """Whether it came."""
        slot = hash(text) % _SLOTS
        return bool(self._newer[slot] or self._older[slot])


class OutputCache:
    """Outputs as the model gave them, by `CacheKey`, and responses, by the digest of a request's body.

    Both share one bound of bytes; the least recently used goes first. With caching off it holds nothing and shares no
    rows.

    Attributes:
        seen: texts whose outputs may be kept; None with caching off.
        has_store: whether outputs are kept in a store too.
    """

    def __init__(
        self,
        settings: CacheSettings,
        clock: Callable[[], float] = time.monotonic,
        *,
        stored: StoredOutputs | None = None,
    ) -> None:
        """Outputs are kept in `stored` too, which belongs to this object."""
        self._stored, self.has_store = stored, stored is not None
        self.is_enabled = settings.enabled
        self.seen = SeenTexts() if settings.enabled else None
        self._entries: TTLCache[CacheKey | bytes, Any] = TTLCache(
            maxsize=settings.max_bytes if settings.enabled else 0,
            ttl=settings.ttl_seconds,
            timer=clock,
            getsizeof=_bytes,
        )
        # Weak: a row that nobody waits for any more is dropped by the batcher, and so disappears here.
        self._pending: WeakValueDictionary[CacheKey, Row] = WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes: of entries, and of tables as they are now."""
        tables = (each for each in vars(self._entries).values() if isinstance(each, dict))
        return int(self._entries.currsize) - _TABLE_BYTES * len(self._entries) + sum(map(sys.getsizeof, tables))

    def get(self, key: CacheKey) -> RowOutputs | None:
        """The outputs kept under `key`; not to be written to."""
        try:
            found: RowOutputs = self._entries[key]
        except KeyError:
            return None
        return found

    def to_fetch(self, keys: Sequence[CacheKey], inputs: Sequence[Features]) -> Mapping[CacheKey, int]:
        """Keys whose outputs are neither here nor on their way, with the tokens of the inputs."""
        return {
            key: len(each.ids)
            for key, each in zip(keys, inputs, strict=True)
            if self.get(key) is None and self.pending(key) is None
        }

    async def fetch(self, wanted: Mapping[CacheKey, int]) -> Mapping[CacheKey, RowOutputs]:
        """What the store has of `to_fetch`; from now on it is here too."""
        found = {} if self._stored is None else await self._stored.find(wanted)
        for key, outputs in found.items():
            self._keep(key, outputs)
        return found

    async def close(self) -> None:
        """Close the store."""
        if self._stored is not None:
            await self._stored.close()

    def response(self, digest: bytes) -> CachedResponse | None:
        """The response kept under `digest`, if the outputs in it are still kept."""
        try:
            found: CachedResponse = self._entries[digest]
        except KeyError:
            return None
        # Asked for, not looked at: outputs whose response is sent are in use.
        return found if self.get(found.key) is not None else None

    def keep_response(self, digest: bytes, response: CachedResponse) -> None:
        """Keep a response, if there is room for it."""
        if _bytes(response) <= self._entries.maxsize:
            self._entries[digest] = response

    def forget_responses(self) -> None:
        """Drop all responses: names or limits have changed."""
        for digest in [key for key, entry in self._entries.items() if isinstance(entry, CachedResponse)]:
            del self._entries[digest]

    def pending(self, key: CacheKey) -> Row | None:
        """The row that will have the outputs of `key`, if someone waits for it right now."""
        row = self._pending.get(key)
        return row if row is not None and row.is_wanted else None

    def is_at_hand(self, fingerprint: str, features: Features) -> bool:
        """Whether the outputs of `features` are kept, or someone waits for them right now."""
        key = CacheKey(fingerprint, features.digest())
        return self.get(key) is not None or self.pending(key) is not None

    def add_pending(self, row: Row) -> None:
        """Remember a row that was just admitted."""
        if self.is_enabled and row.key is not None:
            self._pending[row.key] = row

    def keep(self, row: Row) -> None:
        """Keep a finished row's outputs; it is pending no more. A failed row leaves nothing behind."""
        if row.key is None or not self.is_enabled:
            return
        if self._pending.get(row.key) is row:
            del self._pending[row.key]
        if row.outputs is not None and all(map(_is_finite, row.outputs.values())):
            # Copies: outputs are views of their whole batch, which would live as long as the views.
            outputs = {name: _copy(output) for name, output in row.outputs.items()}
            self._keep(row.key, outputs)
            if self._stored is not None:
                self._stored.keep(row.key, row.tokens, outputs)

    def _keep(self, key: CacheKey, outputs: RowOutputs) -> None:
        if _bytes(outputs) <= self._entries.maxsize:
            self._entries[key] = outputs


def _bytes(entry: RowOutputs | CachedResponse) -> int:
    own = entry.size if isinstance(entry, CachedResponse) else sum(output.nbytes for output in entry.values())
    return own + _ENTRY_BYTES + _TABLE_BYTES


def _is_finite(output: RowOutput) -> bool:
    return bool(np.isfinite(output.weights if isinstance(output, SparseVector) else output).all())


def _copy(output: RowOutput) -> RowOutput:
    if isinstance(output, SparseVector):
        return SparseVector(output.ids.copy(), output.weights.copy())
    copy = output.copy()
    copy.flags.writeable = False
    return copy
