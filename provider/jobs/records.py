"""Files and jobs as the database has them. OpenAI calls a job a batch; here a batch is one forward pass."""

import re
import secrets
from collections.abc import Mapping
from enum import StrEnum

from attrs import field, frozen

FILE_ID = re.compile(r"file-[0-9a-f]{24}")
JOB_ID = re.compile(r"batch_[0-9a-f]{24}")


def new_file_id() -> str:
    """An id that nobody can guess."""
    return f"file-{secrets.token_hex(12)}"


def new_job_id() -> str:
    """An id that nobody can guess."""
    return f"batch_{secrets.token_hex(12)}"


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


@frozen
class StoredFile:
    """A file that is whole.

    Attributes:
        owner: name of the key that it belongs to; empty where there are no keys.
        filename: as it was uploaded.
        size: bytes.
        created_at: seconds since 1970.
        expires_at: when it is removed, in seconds since 1970.
    """

    id: str
    owner: str
    filename: str
    purpose: Purpose
    size: int
    created_at: int
    expires_at: int


class JobStatus(StrEnum):
    """OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


ENDED = frozenset({JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.EXPIRED, JobStatus.CANCELLED})
"""States that a job does not leave."""


@frozen
class Problem:
    """What is wrong with an input file, or why a job ended early.

    Attributes:
        line: from 1 on; None for the file as a whole.
        param: the field at fault.
    """

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@frozen
class Pause:
    """Why a job does not advance at present.

    Attributes:
        code: `disk_full`, `storage_limit`, `rate_limit`, or what the model's error is called (`model_failed`).
        since: seconds since 1970.
    """

    code: str
    message: str
    since: int


@frozen
class Progress:
    """How far a job is. What stands behind these sizes in its files is no result yet.

    Attributes:
        position: bytes of the input that are done.
        lines: its lines up to there, empty ones included.
        completed: requests that were answered.
        failed: requests that were not.
        tokens: as in the usage of all answers.
        output_bytes: of the output file.
        error_bytes: of the error file.
    """

    position: int = 0
    lines: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    output_bytes: int = 0
    error_bytes: int = 0

    @property
    def requests(self) -> int:
        """Those that are done."""
        return self.completed + self.failed


@frozen
class Job:
    """A batch of requests.

    Attributes:
        owner: name of the key that it belongs to; empty where there are no keys.
        endpoint: path of all its requests.
        output_file_id: of answers; the file is listed when the job has ended.
        error_file_id: of requests that were not answered.
        window: `completion_window` as it was sent.
        metadata: the caller's own.
        created_at: seconds since 1970.
        expires_at: when it is given up, in seconds since 1970.
        output_seconds: how long its files are kept.
        total: requests; 0 until the input is validated.
        times: when it entered each state that it has been in, in seconds since 1970.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    output_file_id: str
    error_file_id: str
    window: str
    created_at: int
    expires_at: int
    output_seconds: int
    metadata: Mapping[str, str] | None = None
    status: JobStatus = JobStatus.VALIDATING
    total: int = 0
    progress: Progress = field(factory=Progress)
    problems: tuple[Problem, ...] = ()
    pause: Pause | None = None
    times: Mapping[str, int] = field(factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether it is in a state that it does not leave."""
        return self.status in ENDED
