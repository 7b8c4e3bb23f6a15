"""Files and jobs in SQLite. Every change is one transaction, and on the disk when a method returns."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from attrs import asdict, evolve

from provider.errors import InvalidRequest, ObjectNotFound
from provider.jobs.records import ENDED, Job, JobStatus, Pause, Problem, Progress, Purpose, StoredFile
from provider.sqlite import DatabaseKind, transaction

FOLDER_SETTING = "jobs.folder"
_KIND = DatabaseKind(
    FOLDER_SETTING,
    application_id=0x656D626A,  # "embj"
    version=1,
    schema="""
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, filename TEXT NOT NULL,
    purpose TEXT NOT NULL, size INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL
);
CREATE INDEX files_of_owner ON files (owner, number);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, endpoint TEXT NOT NULL,
    input_file_id TEXT NOT NULL, output_file_id TEXT NOT NULL, error_file_id TEXT NOT NULL, window TEXT NOT NULL,
    created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, output_seconds INTEGER NOT NULL, metadata BLOB NOT NULL,
    status TEXT NOT NULL, total INTEGER NOT NULL, progress BLOB NOT NULL, problems BLOB NOT NULL, pause BLOB NOT NULL,
    times BLOB NOT NULL
);
CREATE INDEX jobs_of_owner ON jobs (owner, number);
CREATE INDEX jobs_by_status ON jobs (status);
""",
    synchronous="FULL",
)
_FILE = "id, owner, filename, purpose, size, created_at, expires_at"
_JOB = (
    "id, owner, endpoint, input_file_id, output_file_id, error_file_id, window, created_at, expires_at, "
    "output_seconds, metadata, status, total, progress, problems, pause, times"
)
_JSON: dict[str, Any] = {
    "metadata": dict[str, str] | None,
    "progress": Progress,
    "problems": tuple[Problem, ...],
    "pause": Pause | None,
    "times": dict[str, int],
}
_ENDED = ", ".join(f"'{each}'" for each in sorted(ENDED))
_NOT_ENDED = f"status NOT IN ({_ENDED})"
FILE, JOB = "File", "Batch"


class JobsDatabase:
    """The file that all workers share. May be used from any thread, but not from the event loop's: it waits for disks.

    What its methods raise beyond what they say is sqlite3.Error: the disk is full or broken.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it.

        Args:
            path: of the file.
            clock: seconds since 1970.

        Raises:
            SettingsError: it cannot be written, or is something else.
        """
        self._connection, self._lock, self._clock = _KIND.open(path), threading.Lock(), clock

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def now(self) -> int:
        """Seconds since 1970."""
        return int(self._clock())

    def add_file(self, file: StoredFile) -> None:
        """A file that is on the disk."""
        with self._lock, transaction(self._connection):
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
                _FILE,
                owner,
                limit=limit,
                after=after,
                where=where,
                values=values,
                is_ascending=is_ascending,
            )
        return [_read_file(row) for row in rows]

    def remove_file(self, file_id: str, owner: str) -> None:
        """Take a file out; the caller removes it from the disk.

        Raises:
            ObjectNotFound: as `file`.
            InvalidRequest: a job that has not ended reads it.
        """
        with self._lock, transaction(self._connection):
            self._file(file_id, owner)
            user = self._one(f"SELECT id FROM jobs WHERE input_file_id = ? AND {_NOT_ENDED}", file_id)
            if user is not None:
                msg = f"The file {file_id} is the input of {user[0]}, which has not ended. Cancel the batch first."
                raise InvalidRequest(msg, param="file_id", code="file_in_use")
            self._run("DELETE FROM files WHERE id = ?", file_id)

    def add_job(self, job: Job, most: int) -> None:
        """A new job, whose input is kept until it has ended.

        Raises:
            ObjectNotFound: its owner has no such input file.
            InvalidRequest: the file is no input, or the owner has `most` jobs that have not ended.
        """
        with self._lock, transaction(self._connection):
            file = self._file(job.input_file_id, job.owner)
            if file.purpose is not Purpose.BATCH:
                msg = f"Invalid 'input_file_id': the purpose of {file.id} is {file.purpose}; it has to be batch."
                raise InvalidRequest(msg, param="input_file_id", code="invalid_value")
            (open_jobs,) = self._one(f"SELECT COUNT(*) FROM jobs WHERE owner = ? AND {_NOT_ENDED}", job.owner) or (0,)
            if open_jobs >= most:
                msg = f"You have {open_jobs} batches that have not ended; at most {most} are accepted. Wait for one."
                raise InvalidRequest(msg, code="too_many_batches")
            columns = _columns(job)
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
            rows = self._page("jobs", _JOB, owner, limit=limit, after=after)
        return [_read_job(row) for row in rows]

    def open_jobs(self) -> list[Job]:
        """Everyone's jobs that have not ended, the oldest first."""
        with self._lock:
            rows = self._connection.execute(f"SELECT {_JOB} FROM jobs WHERE {_NOT_ENDED} ORDER BY number").fetchall()
        return [_read_job(row) for row in rows]

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
        with self._lock, transaction(self._connection):
            job = self._job(job_id, None)
            if only and job.status not in only:
                return job
            status = values.get("status", job.status)
            if status is not job.status:
                values["times"] = {**job.times, str(status): self.now()}
            changed = evolve(job, **values)
            columns = {name: value for name, value in _columns(changed).items() if name in values}
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

    def expire(self) -> None:
        """Forget files that have expired, but for the inputs of jobs that have not ended, and jobs whose files have."""
        now = self.now()
        with self._lock, transaction(self._connection):
            self._run(
                "DELETE FROM files WHERE expires_at <= ? AND id NOT IN "
                f"(SELECT input_file_id FROM jobs WHERE {_NOT_ENDED})",
                now,
            )
            self._run(f"DELETE FROM jobs WHERE NOT {_NOT_ENDED} AND expires_at + output_seconds <= ?", now)

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:  # noqa: ANN401 - SQLite's
        return self._connection.execute(statement, values)

    def _one(self, statement: str, *values: Any) -> Any:  # noqa: ANN401 - SQLite's
        return self._run(statement, *values).fetchone()

    def _file(self, file_id: str, owner: str) -> StoredFile:
        row = self._one(
            f"SELECT {_FILE} FROM files WHERE id = ? AND owner = ? AND expires_at > ?", file_id, owner, self.now()
        )
        if row is None:
            raise ObjectNotFound(FILE, file_id)
        return _read_file(row)

    def _insert_file(self, file: StoredFile) -> None:
        values = asdict(file)
        self._run(f"INSERT INTO files ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", *values.values())

    def _job(self, job_id: str, owner: str | None) -> Job:
        row = self._one(f"SELECT {_JOB} FROM jobs WHERE id = ?", job_id)
        if row is None or owner not in (None, row[1]):
            raise ObjectNotFound(JOB, job_id)
        return _read_job(row)

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


def _columns(job: Job) -> dict[str, Any]:
    values = asdict(job, recurse=False)
    return values | {name: msgspec.json.encode(values[name]) for name in _JSON}


def _read_file(row: Sequence[Any]) -> StoredFile:
    file_id, owner, filename, purpose, size, created_at, expires_at = row
    return StoredFile(file_id, owner, filename, Purpose(purpose), size, created_at, expires_at)


def _read_job(row: Sequence[Any]) -> Job:
    values = dict(zip(_JOB.split(", "), row, strict=True))
    values |= {name: msgspec.json.decode(values[name], type=kind) for name, kind in _JSON.items()}
    return Job(**(values | {"status": JobStatus(values["status"])}))
