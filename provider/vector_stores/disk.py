"""Entries in a SQLite file, which all processes of a machine share."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from provider.errors import SettingsError
from provider.sqlite import DatabaseKind, transaction
from provider.vector_stores.protocol import NoOptions, StoreOptions

T = TypeVar("T")

_MOST_BYTES = 2**30
# Below this, what SQLite needs for itself would be a large part of it.
_LEAST_BYTES = 2**20
# SQLite's log of what is not in the file yet is cut to this once it is.
_LOG_BYTES = 4 * 2**20
# Entries that are deleted at a time, and the room for which they are.
_STEP, _STEP_BYTES = 128, 2**20
_INSERT = "INSERT OR REPLACE INTO entries (key, expires, value) VALUES (?, ?, ?)"
_PATH_SETTING = "cache.store.path"
# "embv"; ids ascend, so the oldest entry has the smallest.
_KIND = DatabaseKind(
    _PATH_SETTING,
    application_id=0x656D6276,
    version=1,
    schema="CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB UNIQUE, expires REAL NOT NULL, value BLOB NOT NULL)",
    synchronous="NORMAL",
)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class DiskStore:
    """A bounded file: the oldest entries make room for new ones.

    Lookups and writes have a thread and a connection each, so that no lookup waits for a transaction.
    """

    Options: ClassVar[type] = NoOptions

    def __init__(self, path: Path, *, max_bytes: int, ttl_seconds: float) -> None:
        """Use `open`."""
        self._max_bytes, self._ttl_seconds = max_bytes, ttl_seconds
        self._reading, self._writing = _Database(path), _Database(path)

    @classmethod
    def open(cls, options: StoreOptions) -> Self:
        """See `VectorStore.open`."""
        if options.path is None:
            msg = f"{_PATH_SETTING}: the store disk needs a file, such as /var/cache/emb-provider/vectors.sqlite"
            raise SettingsError(msg)
        if options.url is not None:
            msg = f"cache.store.url: the store disk takes none; set {_PATH_SETTING} alone"
            raise SettingsError(msg)
        max_bytes = options.max_bytes or _MOST_BYTES
        if max_bytes < _LEAST_BYTES:
            msg = f"cache.store.max_bytes: got {max_bytes}; the store disk needs at least {_LEAST_BYTES}"
            raise SettingsError(msg)
        return cls(options.path, max_bytes=max_bytes, ttl_seconds=options.ttl_seconds)

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See `VectorStore.get_many`."""
        places = ", ".join("?" * len(keys))
        query = f"SELECT key, value FROM entries WHERE key IN ({places}) AND expires > ?"  # noqa: S608 - question marks

        def read(connection: sqlite3.Connection) -> dict[bytes, bytes]:
            return dict(connection.execute(query, (*keys, time.time())))

        found = await self._reading.run(read)
        return [found.get(key) for key in keys]

    async def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """See `VectorStore.set_many`. Values of more than a quarter of the bound are not kept."""
        now = time.time()

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _drop_expired(connection, now)
                room = 0
                for key, value in entries.items():
                    # A page may be half empty, because the next entry did not fit.
                    needed = 2 * len(value) + 200
                    if needed > self._max_bytes / 2:
                        continue
                    if needed > room:
                        room = max(needed, min(_STEP_BYTES, self._max_bytes // 4))
                        _make_room(connection, self._max_bytes - room)
                    room -= needed
                    connection.execute(_INSERT, (key, now + self._ttl_seconds, value))

        await self._writing.run(write)

    async def close(self) -> None:
        """See `VectorStore.close`."""
        await self._reading.close()
        await self._writing.close()


def _drop_expired(connection: sqlite3.Connection, now: float) -> None:
    connection.execute(
        "DELETE FROM entries WHERE id <= (SELECT MAX(id) FROM "
        "(SELECT id, expires FROM entries ORDER BY id LIMIT ?) WHERE expires <= ?)",
        (_STEP, now),
    )


def _make_room(connection: sqlite3.Connection, most: int) -> None:
    """Delete the oldest entries until the rest take `most` bytes; pages that are free are used again."""
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    while True:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        over = (pages - free) * page - most
        oldest = "SELECT id, length(value) FROM entries ORDER BY id LIMIT ?"
        last = None
        for number, size in connection.execute(oldest, (_STEP,)):
            if over <= 0:
                break
            over -= size
            last = number
        if last is None:
            return
        connection.execute("DELETE FROM entries WHERE id <= ?", (last,))


class _Database:
    """A connection to the file, and the thread that uses it.

    A file that was removed is made anew, and so is one that is damaged.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            SettingsError: it cannot be written, or is something else.
        """
        self._path = path
        self._connection = self._opened()
        self._file = path.stat()
        self._thread = ThreadPoolExecutor(1, "vector store")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives for the connection."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)

    async def close(self) -> None:
        """Close the connection, once the thread is free."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._is_gone():
            connection = self._opened()
            self._connection.close()
            self._connection, self._file = connection, self._path.stat()
        try:
            return work(self._connection)
        except sqlite3.DatabaseError as exc:
            # The low byte is the class of an error.
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED and not self._is_gone():
                for suffix in ("", "-wal", "-shm"):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            raise

    def _opened(self) -> sqlite3.Connection:
        connection = _KIND.open(self._path)
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        return connection

    def _is_gone(self) -> bool:
        """Whether the file was removed or replaced."""
        try:
            return not os.path.samestat(self._file, self._path.stat())
        except OSError:
            return True
