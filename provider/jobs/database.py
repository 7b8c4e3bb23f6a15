"""Files and jobs in SQLite. Every change is one transaction, and on the disk when a method returns."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import asdict, evolve

from provider.errors import InvalidRequest, ObjectNotFound, StorageFull
from provider.jobs.records import ENDED, Job, JobStatus, Purpose, StoredFile
from provider.jobs.tables import FILE_COLUMNS, JOB_COLUMNS, KIND, job_values, read_file, read_job
from provider.sqlite import transaction

_ENDED = ", ".join(f"'{each}'" for each in sorted(ENDED))
_NOT_ENDED = f"status NOT IN ({_ENDED})"
_EXPIRED = f"expires_at <= ? AND id NOT IN (SELECT input_file_id FROM jobs WHERE {_NOT_ENDED})"
FILE, JOB = "File", "Batch"


class JobsDatabase:
    """The file that all workers share. May be used from any thread, but not from the event loop's: it waits for disks.

    Beyond what they say, its methods raise StorageFull where the disk is full, and sqlite3.Error where it is broken.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it.

        Args:
            path: of the file.
            clock: seconds since 1970.

        Raises:
            SettingsError: it cannot be written, or is something else.
        """
        self._connection, self._lock, self._clock = KIND.open(path), threading.Lock(), clock

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    def add_file(self, file: StoredFile) -> None:
        """A file that is on the disk."""
        with self._change():
            self._insert_file(file)

    def file(self, file_id: str, owner: str) -> StoredFile:
        """The file of that id.

        Raises:
            ObjectNotFound: there is none, it has expired, or it is someone else's.
        """
        with self._lock:
            return self._file(file_id, owner)

    def files(
        self, owner: str, *, purpose: str | None, limit: int, after: str | None, is_ascending: bool = False
    ) -> list[StoredFile]:
        """Files of `owner`, the newest first unless ascending; at most `limit`, behind the one called `after`.

        Raises:
            ObjectNotFound: `owner` has no file called `after`.
        """
        where = f"expires_at > {self.now()}" + ("" if purpose is None else " AND purpose = ?")
        values = [] if purpose is None else [purpose]
        with self._lock:
            rows = self._page(
                "files",
                FILE_COLUMNS,
                owner,
                limit=limit,
                after=after,
                where=where,
                values=values,
                is_ascending=is_ascending,
            )
        return [read_file(row) for row in rows]

    def remove_file(self, file_id: str, owner: str) -> None:
        """Take a file out; the caller removes it from the disk.

        Raises:
            ObjectNotFound, InvalidRequest: as `check_unused`.
        """
        with self._change():
            self._check_unused(file_id, owner)
            self._run("DELETE FROM files WHERE id = ?", file_id)

    def check_unused(self, file_id: str, owner: str) -> None:
        """See that a file may be removed.

        Raises:
            ObjectNotFound: as `file`.
            InvalidRequest: a job that has not ended reads it.
        """
        with self._lock:
            self._check_unused(file_id, owner)

    def add_job(self, job: Job, most: int) -> None:
        """A new job, whose input is kept until it has ended.

        Raises:
            ObjectNotFound: its owner has no such input file.
            InvalidRequest: the file is no input, or the owner has `most` jobs that have not ended.
        """
        with self._change():
            file = self._file(job.input_file_id, job.owner)
            if file.purpose is not Purpose.BATCH:
                msg = f"Invalid 'input_file_id': the purpose of {file.id} is {file.purpose}; it has to be batch."
                raise InvalidRequest(msg, param="input_file_id", code="invalid_value")
            (open_jobs,) = self._one(f"SELECT COUNT(*) FROM jobs WHERE owner = ? AND {_NOT_ENDED}", job.owner) or (0,)
            if open_jobs >= most:
                msg = f"You have {open_jobs} batches that have not ended; at most {most} are accepted. Wait for one."
                raise InvalidRequest(msg, code="too_many_batches")
            columns = job_values(job)
            places = ", ".join("?" * len(columns))
            self._run(f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({places})", *columns.values())

    def job(self, job_id: str, owner: str | None = None) -> Job:
        """The job of that id; None as `owner`: whoever's.

        Raises:
            ObjectNotFound: there is none, or it is someone else's.
        """
        with self._lock:
            return self._job(job_id, owner)

    def jobs(self, owner: str, *, limit: int, after: str | None) -> list[Job]:
        """Jobs of `owner`, the newest first; at most `limit`, behind the one called `after`.

        Raises:
            ObjectNotFound: `owner` has no job called `after`.
        """
        with self._lock:
            rows = self._page("jobs", JOB_COLUMNS, owner, limit=limit, after=after)
        return [read_job(row) for row in rows]

    def open_jobs(self) -> list[Job]:
        """Everyone's jobs that have not ended, the oldest first."""
        with self._lock:
            rows = self._run(f"SELECT {JOB_COLUMNS} FROM jobs WHERE {_NOT_ENDED} ORDER BY number").fetchall()
        return [read_job(row) for row in rows]

    def change(
        self,
        job_id: str,
        *,
        only: Iterable[JobStatus] = (),
        files: Iterable[StoredFile] = (),
        **values: Any,  # noqa: ANN401 - fields of `Job`
    ) -> Job:
        """The job after these fields have changed; as it is if it is in none of the states `only`, where given.

        Args:
            job_id: of the job.
            only: in which states it changes.
            files: that are added together with the change.
            values: fields of `Job`. Of a new status the time is noted.
        """
        with self._change():
            job = self._job(job_id, None)
            if only and job.status not in only:
                return job
            status = values.get("status", job.status)
            if status is not job.status:
                values["times"] = {**job.times, str(status): self.now()}
            changed = evolve(job, **values)
            columns = {name: value for name, value in job_values(changed).items() if name in values}
            if columns:
                places = ", ".join(f"{name} = ?" for name in columns)
                self._run(f"UPDATE jobs SET {places} WHERE id = ?", *columns.values(), job_id)
            for file in files:
                self._insert_file(file)
            return changed

    def known_files(self) -> set[str]:
        """Ids of all files that are listed, and of those that jobs write."""
        with self._lock:
            listed = self._connection.execute("SELECT id FROM files").fetchall()
            written = self._connection.execute(
                f"SELECT output_file_id, error_file_id FROM jobs WHERE {_NOT_ENDED}"
            ).fetchall()
        return {each for row in (*listed, *written) for each in row}

    def expired_files(self) -> list[str]:
        """Ids of files that have expired, but for the inputs of jobs that have not ended."""
        with self._lock:
            return [each for (each,) in self._run(f"SELECT id FROM files WHERE {_EXPIRED}", self.now())]

    def expire(self) -> None:
        """Forget `expired_files`, and jobs whose files have expired."""
        now = self.now()
        with self._change():
            self._run(f"DELETE FROM files WHERE {_EXPIRED}", now)
            self._run(f"DELETE FROM jobs WHERE NOT {_NOT_ENDED} AND expires_at + output_seconds <= ?", now)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction.

        Raises:
            StorageFull: the disk is full.
        """
        with self._lock:
            try:
                with transaction(self._connection):
                    yield
            except sqlite3.Error as exc:
                if getattr(exc, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise StorageFull(reason=str(exc)) from exc
                raise

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:  # noqa: ANN401 - SQLite's
        return self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:  # noqa: ANN401 - SQLite's
        return self._run(statement, *values).fetchone()

    def _file(self, file_id: str, owner: str) -> StoredFile:
        statement = f"SELECT {FILE_COLUMNS} FROM files WHERE id = ? AND owner = ? AND expires_at > ?"
        row = self._one(statement, file_id, owner, self.now())
        if row is None:
            raise ObjectNotFound(FILE, file_id)
        return read_file(row)

    def _check_unused(self, file_id: str, owner: str) -> None:
        self._file(file_id, owner)
        user = self._one(f"SELECT id FROM jobs WHERE input_file_id = ? AND {_NOT_ENDED}", file_id)
        if user is not None:
            msg = f"The file {file_id} is the input of {user[0]}, which has not ended. Cancel the batch first."
            raise InvalidRequest(msg, param="file_id", code="file_in_use")

    def _insert_file(self, file: StoredFile) -> None:
        values = asdict(file)
        self._run(f"INSERT INTO files ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", *values.values())

    def _job(self, job_id: str, owner: str | None) -> Job:
        row = self._one(f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?", job_id)
        if row is None or owner not in (None, row[1]):
            raise ObjectNotFound(JOB, job_id)
        return read_job(row)

    def _page(
        self,
        table: str,
        columns: str,
        owner: str,
        *,
        limit: int,
        after: str | None,
        where: str = "1",
        values: Sequence[Any] = (),
        is_ascending: bool = False,
    ) -> list[Any]:
        order, sign = ("ASC", ">") if is_ascending else ("DESC", "<")
        place: list[Any] = []
        if after is not None:
            row = self._one(f"SELECT number FROM {table} WHERE id = ? AND owner = ?", after, owner)
            if row is None:
                raise ObjectNotFound(FILE if table == "files" else JOB, after)
            where, place = f"{where} AND number {sign} ?", [*row]
        return self._run(
            f"SELECT {columns} FROM {table} WHERE owner = ? AND {where} ORDER BY number {order} LIMIT ?",
            owner,
            *values,
            *place,
            limit,
        ).fetchall()
