"""Files and batches as OpenAI's JSON has them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from attrs import frozen

from provider.errors import InvalidRequest, MalformedJSON
from provider.jobs.records import Job, Purpose, StoredFile

MOST_METADATA, MOST_KEY, MOST_VALUE = 16, 64, 512
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
WINDOW = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_MOST_WINDOW_SECONDS = 30 * 86_400
LEAST_KEPT_SECONDS, MOST_KEPT_SECONDS = 3600, 30 * 86_400
# States whose time an answer shows.
_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")

T = TypeVar("T", StoredFile, Job)


class ExpiresAfter(msgspec.Struct):
    """When files are removed."""

    seconds: int
    anchor: str = "created_at"


class _CreateFields(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, Any] | None = None
    output_expires_after: ExpiresAfter | None = None


_create_decoder = msgspec.json.Decoder(_CreateFields)


@frozen
class CreateBatch:
    """What `POST /v1/batches` asks for.

    Attributes:
        window: as it was sent.
        window_seconds: after which the job is given up.
        output_seconds: how long its files are kept; None: as configured.
    """

    input_file_id: str
    endpoint: str
    window: str
    window_seconds: int
    metadata: Mapping[str, str] | None
    output_seconds: int | None


def parse_create(body: bytes, endpoints: Sequence[str]) -> CreateBatch:
    """Read the body of `POST /v1/batches`.

    Args:
        body: JSON.
        endpoints: what requests may be for.

    Raises:
        MalformedJSON: it is no JSON document.
        InvalidRequest: a field has a wrong type or value.
    """
    try:
        fields = _create_decoder.decode(body)
    except msgspec.ValidationError as exc:
        path = re.search(r"`\$\.?([^`]*)`", str(exc)) or re.search(r"field `([^`]*)`", str(exc))
        msg = f"Invalid body: {exc}. Send input_file_id, endpoint and completion_window as strings."
        raise InvalidRequest(msg, param=path[1] if path else None, code="invalid_type") from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        msg = f"The body is no JSON document: {exc}."
        raise MalformedJSON(msg) from exc
    if fields.endpoint not in endpoints:
        known = ", ".join(repr(each) for each in endpoints)
        msg = f"Invalid value: {fields.endpoint[:100]!r}. Supported values are: {known}."
        raise InvalidRequest(msg, param="endpoint", code="invalid_value")
    after = fields.output_expires_after
    return CreateBatch(
        fields.input_file_id,
        fields.endpoint,
        fields.completion_window,
        _window_seconds(fields.completion_window),
        None if fields.metadata is None else _metadata(fields.metadata),
        None if after is None else kept_seconds(after.seconds, after.anchor, "output_expires_after"),
    )


def kept_seconds(seconds: int, anchor: str, param: str) -> int:
    """For how long a file is kept.

    Raises:
        InvalidRequest: too short or too long, or from another time on than its creation.
    """
    if anchor != "created_at":
        msg = f"Invalid value: {anchor[:100]!r}. Supported values are: 'created_at'."
        raise InvalidRequest(msg, param=f"{param}.anchor", code="invalid_value")
    if not LEAST_KEPT_SECONDS <= seconds <= MOST_KEPT_SECONDS:
        msg = f"Invalid value: {seconds}. It is a number of seconds from {LEAST_KEPT_SECONDS} to {MOST_KEPT_SECONDS}."
        raise InvalidRequest(msg, param=f"{param}.seconds", code="invalid_value")
    return seconds


def file_json(file: StoredFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": str(file.purpose),
        "status": "processed",
        "status_details": None,
    }


def batch_json(job: Job) -> dict[str, Any]:
    """OpenAI's batch object, and `pause`: why it does not advance at present."""
    done = job.progress
    has_files = job.has_ended
    problems = [
        {"code": each.code, "line": each.line, "message": each.message, "param": each.param} for each in job.problems
    ]
    pause = job.pause
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.endpoint,
        "errors": {"object": "list", "data": problems} if problems else None,
        "input_file_id": job.input_file_id,
        "completion_window": job.window,
        "status": str(job.status),
        "output_file_id": job.output_file_id if has_files and done.output_bytes else None,
        "error_file_id": job.error_file_id if has_files and done.error_bytes else None,
        "created_at": job.created_at,
        "expires_at": job.expires_at,
        **{f"{name}_at": job.times.get(name) for name in _TIMES},
        "request_counts": {"total": job.total, "completed": done.completed, "failed": done.failed},
        "usage": {
            "input_tokens": done.tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": done.tokens,
        },
        "metadata": None if job.metadata is None else dict(job.metadata),
        "pause": None if pause is None else {"code": pause.code, "message": pause.message, "since": pause.since},
    }


def page_json(entries: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list object."""
    return {
        "object": "list",
        "data": [*entries],
        "first_id": entries[0]["id"] if entries else None,
        "last_id": entries[-1]["id"] if entries else None,
        "has_more": has_more,
    }


def deleted_json(file_id: str) -> dict[str, Any]:
    """The answer to a DELETE."""
    return {"id": file_id, "object": "file", "deleted": True}


def purpose_of(text: str) -> Purpose:
    """What an upload is for.

    Raises:
        InvalidRequest: something that there is no use for here.
    """
    if text != Purpose.BATCH:
        msg = f"Invalid value: {text[:100]!r}. Supported values are: 'batch'."
        raise InvalidRequest(msg, param="purpose", code="invalid_value")
    return Purpose.BATCH


def _window_seconds(text: str) -> int:
    match = WINDOW.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _MOST_WINDOW_SECONDS:
        msg = f"Invalid value: {text[:100]!r}. It is a time such as '24h', '90m' or '7d', up to 30 days."
        raise InvalidRequest(msg, param="completion_window", code="invalid_value")
    return seconds


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    is_right = len(given) <= MOST_METADATA and all(
        isinstance(value, str) and len(key) <= MOST_KEY and len(value) <= MOST_VALUE for key, value in given.items()
    )
    if not is_right:
        msg = (
            f"Invalid 'metadata': up to {MOST_METADATA} pairs of strings, keys of up to {MOST_KEY} characters and "
            f"values of up to {MOST_VALUE}."
        )
        raise InvalidRequest(msg, param="metadata", code="invalid_value")
    return dict(given)
