"""Tables of files and jobs, and their rows."""

from collections.abc import Sequence
from typing import Any

import msgspec
from attrs import asdict

from provider.jobs.records import Job, JobStatus, Pause, Problem, Progress, Purpose, StoredFile
from provider.sqlite import DatabaseKind

FOLDER_SETTING = "jobs.folder"
KIND = DatabaseKind(
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
FILE_COLUMNS = "id, owner, filename, purpose, size, created_at, expires_at"
JOB_COLUMNS = (
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


def job_values(job: Job) -> dict[str, Any]:
    """Of a row, by column."""
    values = asdict(job, recurse=False)
    return values | {name: msgspec.json.encode(values[name]) for name in _JSON}


def read_file(row: Sequence[Any]) -> StoredFile:
    """The file of a row of `FILE_COLUMNS`."""
    file_id, owner, filename, purpose, size, created_at, expires_at = row
    return StoredFile(file_id, owner, filename, Purpose(purpose), size, created_at, expires_at)


def read_job(row: Sequence[Any]) -> Job:
    """The job of a row of `JOB_COLUMNS`."""
    values = dict(zip(JOB_COLUMNS.split(", "), row, strict=True))
    values |= {name: msgspec.json.decode(values[name], type=kind) for name, kind in _JSON.items()}
    return Job(**(values | {"status": JobStatus(values["status"])}))
