"""Counts usage in memory, and writes it once a second in a thread of its own."""

import secrets
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from attrs import evolve

from provider.errors import SettingsError
from provider.usage.database import Batch, Counts, UsageDatabase, today
from provider.usage.quotas import Quotas

_WRITE_SECONDS = 1.0
_CLOSE_SECONDS = 15.0

_log = structlog.get_logger("provider.usage")


class UsageRecorder:
    """What one process counts. `add` is for any thread and does not wait for the file.

    While the file cannot be written, counts stay in memory: one set a day, caller and model.
    """

    def __init__(self, path: Path, quotas: Quotas, *, today: Callable[[], str] = today) -> None:
        """Open the file, and read what has been spent of quotas.

        Raises:
            SettingsError: the file cannot be used.
        """
        self.path = path
        self._database, self._quotas, self._today = UsageDatabase.open(path), quotas, today
        self._quotas.exchange([], self._database.spent())
        self._lock, self._ending = threading.Lock(), threading.Event()
        self._counts: dict[tuple[str, str, str], list[int]] = {}
        # A name of its own: a process number may come again.
        self._writer, self._number = secrets.token_hex(16), 0
        self._batch: Batch | None = None
        self._problem = ""
        self._thread: threading.Thread | None = None

    def add(self, caller: str, model: str, counts: Counts) -> None:
        """Count what a request of `caller` has used; empty: of nobody's, of no model."""
        with self._lock:
            group = (self._today(), caller, model)
            sums = self._counts.get(group)
            if sums is None:
                self._counts[group] = list(counts)
            else:
                for index, count in enumerate(counts):
                    sums[index] += count

    def flush(self) -> None:
        """Write what was counted, each count once, and read what other processes have spent of quotas.

        A file that was removed is made anew.

        Raises:
            SettingsError, sqlite3.Error: it could not be written; the next call writes it.
        """
        if self._database.is_gone:
            anew = UsageDatabase.open(self.path)
            self._database.close()
            self._database = anew
            _log.error("usage_file_gone", path=str(self.path), hint="what it held is lost; counts go to a new file")
        if self._batch is None:
            with self._lock:
                counts, self._counts = self._counts, {}
            self._number += 1
            self._batch = Batch(self._writer, self._number, counts, self._quotas.unwritten())
        if self._batch.counts or self._batch.spent:
            self._database.write(evolve(self._batch, spent=self._quotas.current(self._batch.spent)))
        spent = self._database.spent()
        written, self._batch = self._batch.spent, None
        self._quotas.exchange(written, spent)

    def start(self) -> None:
        """Write once a second from now on."""
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and close the file. Blocks for seconds if the file is busy."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        self._database.close()

    def _run(self) -> None:
        is_ending = False
        while not is_ending:
            is_ending = self._ending.wait(_WRITE_SECONDS)
            try:
                self.flush()
            except (SettingsError, sqlite3.Error) as exc:
                if str(exc) != self._problem:
                    _log.error("usage_not_written", path=str(self.path), reason=str(exc))
                self._problem = str(exc)
            else:
                self._problem = ""
