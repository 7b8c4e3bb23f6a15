"""The file of usage: SQLite in WAL mode, written by any number of processes of one machine."""

import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, Self

from attrs import field, frozen

from provider.errors import SettingsError
from provider.sqlite import DatabaseKind, transaction

FILE_SETTING = "auth.usage_file"
# "embp"
_KIND = DatabaseKind(
    FILE_SETTING,
    application_id=0x656D6270,
    version=1,
    schema="""
CREATE TABLE usage (
    day TEXT NOT NULL, caller TEXT NOT NULL, model TEXT NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL, inputs INTEGER NOT NULL, documents INTEGER NOT NULL,
    tokens INTEGER NOT NULL, cached INTEGER NOT NULL, truncated INTEGER NOT NULL,
    PRIMARY KEY (day, caller, model)
) WITHOUT ROWID;
CREATE TABLE spent (
    caller TEXT NOT NULL, period TEXT NOT NULL, number INTEGER NOT NULL,
    requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (caller, period)
) WITHOUT ROWID;
CREATE TABLE writers (id TEXT PRIMARY KEY, batch INTEGER NOT NULL, day TEXT NOT NULL) WITHOUT ROWID;
""",
)

Group = Literal["day", "caller", "model"]
GROUPS: tuple[Group, ...] = ("day", "caller", "model")


class Counts(NamedTuple):
    """What was used.

    Attributes:
        requests: that run a model, refused ones included.
        errors: of these, those answered with a status of 400 or more.
        inputs: texts that were embedded.
        documents: texts that were scored.
        tokens: of inputs and documents, as in the answers' usage.
        cached: inputs and documents whose outputs were in the cache.
        truncated: inputs and documents that were cut.
    """

    requests: int = 0
    errors: int = 0
    inputs: int = 0
    documents: int = 0
    tokens: int = 0
    cached: int = 0
    truncated: int = 0


class Used(NamedTuple):
    """Counts of a day (of UTC, as ISO 8601 has it), a caller and a model; what was not grouped by is None."""

    day: str | None
    caller: str | None
    model: str | None
    counts: Counts


class Spent(NamedTuple):
    """What a caller has used of a quota in one period.

    Attributes:
        period: `minute` or `day`.
        number: which one: periods since 1970.
    """

    caller: str
    period: str
    number: int
    requests: int
    tokens: int


@frozen
class Batch:
    """What one process writes in one transaction. Writing it again, after an error whose outcome is open, is harmless.

    Attributes:
        writer: name of the process, its own.
        number: of the batch, ascending.
        counts: by day, caller and model.
        spent: what was used since the last batch.
    """

    writer: str
    number: int
    counts: Mapping[tuple[str, str, str], Sequence[int]]
    spent: Sequence[Spent] = field(factory=list)


def today() -> str:
    """The day of UTC, as ISO 8601 has it."""
    return datetime.now(UTC).date().isoformat()


class UsageDatabase:
    """An open file. For one thread at a time; what it raises after `open` is sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Use `open`."""
        self._connection, self._path, self._file = connection, path, path.stat()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file, or make it, for its owner alone.

        Raises:
            SettingsError: it cannot be written, or is something else.
        """
        connection = _KIND.open(path)
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        try:
            connection.execute("DELETE FROM writers WHERE day < ?", (yesterday,))
            return cls(connection, path)
        except (OSError, sqlite3.Error) as exc:
            connection.close()
            msg = f"{FILE_SETTING}: cannot use {path}: {exc}"
            raise SettingsError(msg) from exc

    @classmethod
    def open_to_read(cls, path: Path) -> Self:
        """Open a file that is there, and change nothing.

        Raises:
            SettingsError: it is not there, or is something else.
        """
        return cls(_KIND.open_to_read(path), path)

    @property
    def is_gone(self) -> bool:
        """Whether the file was removed or replaced: what is written then is in no file that has a name."""
        try:
            return not os.path.samestat(self._file, self._path.stat())
        except OSError:
            return True

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def write(self, batch: Batch) -> None:
        """Add a batch, whole or not at all, and once."""
        run = self._connection.execute
        with transaction(self._connection):
            changed = run(
                "INSERT INTO writers VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, "
                "day = excluded.day WHERE excluded.batch > batch",
                (batch.writer, batch.number, today()),
            )
            if not changed.rowcount:
                return
            columns = ", ".join(Counts._fields)
            sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in Counts._fields)
            places = ", ".join("?" * (len(GROUPS) + len(Counts._fields)))
            for group, counts in batch.counts.items():
                run(
                    f"INSERT INTO usage (day, caller, model, {columns}) VALUES ({places}) "  # noqa: S608 - our names
                    f"ON CONFLICT (day, caller, model) DO UPDATE SET {sums}",
                    (*group, *counts),
                )
            for spent in batch.spent:
                # Of each period the newest only; what came late for an older one decides nothing any more. Newer by
                # more than one is what was written while the clock was ahead.
                run(
                    "INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT (caller, period) DO UPDATE SET "
                    "requests = excluded.requests + CASE WHEN number = excluded.number THEN requests ELSE 0 END, "
                    "tokens = excluded.tokens + CASE WHEN number = excluded.number THEN tokens ELSE 0 END, "
                    "number = excluded.number WHERE excluded.number >= number OR number > excluded.number + 1",
                    spent,
                )

    def spent(self) -> list[Spent]:
        """What all processes together have spent of each caller's newest periods."""
        return [Spent(*row) for row in self._connection.execute("SELECT * FROM spent")]

    def read(
        self,
        by: Collection[Group],
        *,
        since: date | None = None,
        until: date | None = None,
        only: Mapping[Group, Sequence[str]] = {},
    ) -> list[Used]:
        """Usage in groups, in their order.

        Args:
            by: what to group by.
            since: the first day.
            until: the day after the last.
            only: the callers or models that are looked at, where not all are.
        """
        names = [name for name in GROUPS if name in by]
        shown = ", ".join(name if name in by else "NULL" for name in GROUPS)
        sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in Counts._fields)
        places = "".join(f" AND {name} IN ({', '.join('?' * len(values))})" for name, values in only.items())
        grouping = f" GROUP BY {', '.join(names)} ORDER BY {', '.join(names)}" if names else ""
        rows = self._connection.execute(
            f"SELECT {shown}, {sums} FROM usage WHERE day >= ? AND day < ?{places}{grouping}",  # noqa: S608 - our names
            [*((since or date.min).isoformat(), (until or date.max).isoformat()), *chain(*only.values())],
        )
        return [Used(day, caller, model, Counts(*counts)) for day, caller, model, *counts in rows]
