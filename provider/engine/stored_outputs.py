"""Outputs in the cache's store: looked up before a model runs, written after it has.

Used on the event loop's thread only. Lookups of all requests go to the store together, one call at a time, and so do
writes; no request waits for a write.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple, Self

from attrs import define, field

from provider.backends import GROUP as BACKENDS
from provider.domain import CacheKey, RowOutput
from provider.engine.guarded_store import GuardedStore
from provider.engine.hooks import Hook, StoreRead, StoreWritten
from provider.entry_points import installed, versions
from provider.settings import CacheSettings
from provider.tasks import GROUP as TASKS
from provider.vector_stores import open_store
from provider.vector_stores.entries import CorruptEntryError, decode, encode

RowOutputs = Mapping[str, RowOutput]

# Of one call of the store; fewer keys where values are large.
_MOST_KEYS, _MOST_BYTES = 128, 2**20
_MOST_QUEUED_BYTES = 32 * 2**20
_CLOSE_SECONDS = 1.0


class _Wanted(NamedTuple):
    key: CacheKey
    name: bytes
    tokens: int


@define(eq=False)
class _Lookup:
    """What one request looks for."""

    rest: deque[_Wanted]
    done: asyncio.Future[None]
    open: int = field(init=False)
    found: dict[CacheKey, RowOutputs] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.open = len(self.rest)

    def settle(self, key: CacheKey, outputs: RowOutputs | None) -> None:
        if outputs is not None:
            self.found[key] = outputs
        self.open -= 1
        if not self.open:
            self.end()

    def end(self) -> None:
        self.rest.clear()
        if not self.done.done():
            self.done.set_result(None)


class _Entry(NamedTuple):
    key: CacheKey
    tokens: int
    outputs: RowOutputs
    size: int


class StoredOutputs:
    """The second level of the cache."""

    def __init__(self, store: GuardedStore, hooks: Hook) -> None:
        """Outputs are kept in `store`, which belongs to this object; `hooks` are told of lookups and writes."""
        self._store, self._hooks = store, hooks
        self._release = _release()
        self._lookups: deque[_Lookup] = deque()
        self._entries: deque[_Entry] = deque()
        self._queued_bytes = 0
        self._value_bytes = 1
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._is_closed = False

    @classmethod
    def open(cls, settings: CacheSettings, hooks: Hook) -> Self | None:
        """The store that the settings name; None where nothing is kept beside the process's own memory.

        Raises:
            SettingsError: as `open_store`.
        """
        named = settings.store
        store = open_store(named) if settings.enabled else None
        if store is None:
            return None
        return cls(GuardedStore(store, named.name, timeout_seconds=named.timeout_ms / 1000, hooks=hooks), hooks)

    async def find(self, wanted: Mapping[CacheKey, int]) -> Mapping[CacheKey, RowOutputs]:
        """What is kept of the outputs of inputs, by key, with so many tokens; soon, or not at all.

        It ends after the store's timeout, with what was found until then. A store that does not work is not asked.
        """
        if self._is_closed or not self._store.can_read:
            return {}
        rest = deque([_Wanted(key, self._name_of(key), tokens) for key, tokens in wanted.items()])
        lookup = _Lookup(rest, asyncio.get_running_loop().create_future())
        self._lookups.append(lookup)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="read from the vector store")
        try:
            await asyncio.wait((lookup.done,), timeout=self._store.timeout_seconds)
        finally:
            lookup.end()
        # A call that is still under way may bring more.
        return dict(lookup.found)

    def keep(self, key: CacheKey, tokens: int, outputs: RowOutputs) -> None:
        """Write outputs soon; nobody may write to them. They are dropped where too many wait, or the store fails."""
        size = sum([output.nbytes for output in outputs.values()])
        if self._is_closed or not self._store.can_write or self._queued_bytes + size > _MOST_QUEUED_BYTES:
            self._hooks(StoreWritten(0, dropped=1))
            return
        self._entries.append(_Entry(key, tokens, outputs, size))
        self._queued_bytes += size
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="write to the vector store")

    async def close(self) -> None:
        """Write what waits, and close the store; two seconds at most."""
        self._is_closed = True
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=_CLOSE_SECONDS)
        for task in (self._reading, self._writing):
            if task is not None:
                task.cancel()
        for lookup in self._lookups:
            lookup.end()
        await self._store.close()

    def _name_of(self, key: CacheKey) -> bytes:
        return f"{key.fingerprint}:{self._release}:{key.digest.hex()}".encode()

    async def _read(self) -> None:
        while self._lookups and self._store.can_read:
            if not (wanted := self._next_wanted()):
                continue
            began = time.monotonic()
            names = list(dict.fromkeys([each.name for _, each in wanted]))
            values = await self._store.read(names)
            if values is None:
                self._lookups.extend([lookup for lookup, _ in wanted])
                break
            self._settle(wanted, values, time.monotonic() - began)
            # The rest of a large request comes after what has come meanwhile.
            last, _ = wanted[-1]
            if last.rest:
                self._lookups.append(last)
        for lookup in self._lookups:
            lookup.end()
        self._lookups.clear()

    def _next_wanted(self) -> list[tuple[_Lookup, _Wanted]]:
        """Keys of the next call, of the lookups that have waited longest. They are taken out."""
        most = max(1, min(_MOST_KEYS, _MOST_BYTES // self._value_bytes))
        taken: list[tuple[_Lookup, _Wanted]] = []
        while self._lookups and len(taken) < most:
            lookup = self._lookups.popleft()
            while lookup.rest and len(taken) < most:
                taken.append((lookup, lookup.rest.popleft()))
        return taken

    def _settle(
        self, wanted: list[tuple[_Lookup, _Wanted]], values: Mapping[bytes, bytes | None], seconds: float
    ) -> None:
        counts = dict.fromkeys(("found", "missing", "corrupt"), 0)
        read = 0
        for lookup, (key, name, tokens) in wanted:
            value, outputs, outcome = values[name], None, "missing"
            if value is not None:
                read += len(value)
                try:
                    outputs, outcome = decode(name, tokens, value), "found"
                except CorruptEntryError:
                    outcome = "corrupt"
            counts[outcome] += 1
            lookup.settle(key, outputs)
        if there := len(wanted) - counts["missing"]:
            self._value_bytes = read // there + 1
        self._hooks(StoreRead(**counts, seconds=seconds))

    async def _write(self) -> None:
        while self._entries:
            taken = self._next_entries()
            entries = {}
            for key, tokens, outputs, _ in taken:
                name = self._name_of(key)
                # An output of a plugin's task may be no numbers.
                with contextlib.suppress(TypeError):
                    entries[name] = encode(name, tokens, outputs)
            if await self._store.write(entries):
                self._hooks(StoreWritten(len(entries), dropped=len(taken) - len(entries)))
            else:
                self._hooks(StoreWritten(0, dropped=len(taken) + len(self._entries)))
                self._entries.clear()
                self._queued_bytes = 0

    def _next_entries(self) -> list[_Entry]:
        taken: list[_Entry] = []
        size = 0
        while self._entries and len(taken) < _MOST_KEYS and size < _MOST_BYTES:
            taken.append(self._entries.popleft())
            size += taken[-1].size
        self._queued_bytes -= size
        return taken


def _release() -> str:
    """16 hex digits over the versions of all that computes outputs here: entries outlive an upgrade."""
    found: dict[str, str] = {}
    for group in (BACKENDS, TASKS):
        for points in installed(group).values():
            for point in points:
                found |= versions(point)
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]
