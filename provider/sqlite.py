"""SQLite files that several processes of one machine share: WAL mode, a kind and a version that are checked."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from attrs import frozen

from provider.errors import SettingsError


@frozen
class DatabaseKind:
    """What a file holds.

    Attributes:
        setting: the setting that names the file, for messages.
        application_id: of SQLite's header: tells it from other programs' files.
        version: of the schema.
        schema: statements that make its tables.
        synchronous: FULL: what is committed survives a crash of the machine; NORMAL: it may lose the last second.
        busy_seconds: how long another process is waited for.
    """

    setting: str
    application_id: int
    version: int
    schema: str
    synchronous: Literal["NORMAL", "FULL"] = "NORMAL"
    busy_seconds: float = 5.0

    def open(self, path: Path) -> sqlite3.Connection:
        """Open the file, or make it, for its owner alone. The connection is for one thread at a time.

        Raises:
            SettingsError: it cannot be written, or is something else.
        """
        try:
            path.touch(mode=0o600)
            connection = sqlite3.connect(path, timeout=self.busy_seconds, isolation_level=None, check_same_thread=False)
            with contextlib.ExitStack() as stack:
                stack.callback(connection.close)
                self._prepare(connection, path)
                stack.pop_all()
        except OSError as exc:
            msg = f"{self.setting}: cannot write {path}: {exc.strerror}; its folder has to exist"
            raise SettingsError(msg) from exc
        except sqlite3.Error as exc:
            msg = f"{self.setting}: cannot use {path}: {exc}"
            raise SettingsError(msg) from exc
        return connection

    def open_to_read(self, path: Path) -> sqlite3.Connection:
        """Open a file that is there, and change nothing.

        Raises:
            SettingsError: it is not there, or is something else.
        """
        if not path.is_file():
            msg = f"{self.setting}: there is no file {path}; a service makes it when it starts"
            raise SettingsError(msg)
        try:
            uri = f"{path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=self.busy_seconds)
            with contextlib.ExitStack() as stack:
                stack.callback(connection.close)
                self._check(connection, path)
                stack.pop_all()
        except (OSError, sqlite3.Error) as exc:
            msg = f"{self.setting}: cannot read {path}: {exc}"
            raise SettingsError(msg) from exc
        return connection

    def _prepare(self, connection: sqlite3.Connection, path: Path) -> None:
        """See that the file is ours, and make its tables if it is new."""
        self._use_wal(connection, path)
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        with transaction(connection):
            if _is_empty(connection):
                for statement in self.schema.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self.application_id}")
                connection.execute(f"PRAGMA user_version = {self.version}")
            self._check(connection, path)

    def _use_wal(self, connection: sqlite3.Connection, path: Path) -> None:
        """Workers that start at once make the file together, and SQLite's own wait does not cover this step."""
        deadline = time.monotonic() + self.busy_seconds
        while True:
            try:
                # The mode is a property of the file: another program's stays as it is.
                if not _is_empty(connection):
                    self._check(connection, path)
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _check(self, connection: sqlite3.Connection, path: Path) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if (application, version) != (self.application_id, self.version):
            is_ours = application == self.application_id
            what = f"has version {version}, not {self.version}" if is_ours else "is another program's"
            msg = f"{self.setting}: the database {path} {what}; name another file"
            raise SettingsError(msg)


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is executed inside, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    return not tables
