"""`/v1/files` and `/v1/batches`."""

import asyncio
import re
from typing import Any

import msgspec
from litestar import Controller, Request, delete, get, post
from litestar.params import FromPath
from litestar.types import ASGIApp

from provider.errors import InvalidRequest, JobsOff, ObjectNotFound
from provider.http.admission import Admission
from provider.http.auth import RequireKey, caller_of, require_task
from provider.http.exchange import WrittenResponse, whole_body
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import BATCHES_PATH, FILES_PATH
from provider.jobs.calls import Calls
from provider.jobs.content import FileContent
from provider.jobs.database import FILE, JOB
from provider.jobs.operations import (
    BatchesOperation,
    ContentOperation,
    CreateBatchOperation,
    FilesOperation,
    ObjectOperation,
    UploadOperation,
)
from provider.jobs.records import FILE_ID, JOB_ID, Job, StoredFile, new_file_id, new_job_id
from provider.jobs.service import JobService
from provider.jobs.uploads import receive_file
from provider.jobs.wire import batch_json, deleted_json, file_json, page_json, parse_create

_MOST_FILES, _MOST_BATCHES, _DEFAULT_BATCHES = 10_000, 100, 20


class FilesController(Controller):
    """Inputs and results of batches."""

    path = FILES_PATH
    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Batches"]  # noqa: RUF012
    opt = {"dialect": "openai"}  # noqa: RUF012

    @post(middleware=[Admission], status_code=200, operation_class=UploadOperation)
    async def upload(self, request: Request[Any, Any, Any]) -> ASGIApp:
        """Upload a file of requests: JSON lines with `custom_id`, `method`, `url` and `body`."""
        return _json(file_json(await receive_file(request, _jobs(request), _owner(request))))

    @get(operation_class=FilesOperation)
    async def list_files(self, request: Request[Any, Any, Any]) -> ASGIApp:
        """The caller's files, the newest first."""
        query = dict(request.query_params.items())
        limit = _limit(query, _MOST_FILES, _MOST_FILES)
        order = query.get("order", "desc")
        if order not in {"asc", "desc"}:
            msg = f"Invalid value: {order[:100]!r}. Supported values are: 'asc', 'desc'."
            raise InvalidRequest(msg, param="order", code="invalid_value")
        files = await asyncio.to_thread(
            lambda: _jobs(request).database.files(
                _owner(request),
                purpose=query.get("purpose"),
                limit=limit + 1,
                after=query.get("after"),
                is_ascending=order == "asc",
            )
        )
        return _json(page_json([file_json(each) for each in files[:limit]], has_more=len(files) > limit))

    @get("/{file_id:str}", operation_class=ObjectOperation)
    async def show_file(self, request: Request[Any, Any, Any], file_id: FromPath[str]) -> ASGIApp:
        """One of the caller's files."""
        return _json(file_json(await _file(request, file_id)))

    @get("/{file_id:str}/content", operation_class=ContentOperation)
    async def content(self, request: Request[Any, Any, Any], file_id: FromPath[str]) -> ASGIApp:
        """The bytes of a file, or the range of them that the header `Range` names."""
        file = await _file(request, file_id)
        return FileContent(_jobs(request).folder.path(file.id), file)

    @delete("/{file_id:str}", status_code=200, operation_class=ObjectOperation)
    async def remove(self, request: Request[Any, Any, Any], file_id: FromPath[str]) -> ASGIApp:
        """Remove a file, unless a batch that has not ended reads it."""
        jobs, owner = _jobs(request), _owner(request)
        _check_id(FILE, FILE_ID, file_id)
        await asyncio.to_thread(jobs.remove_file, file_id, owner)
        return _json(deleted_json(file_id))


class BatchesController(Controller):
    """Many requests that are answered in the background."""

    path = BATCHES_PATH
    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Batches"]  # noqa: RUF012
    opt = {"dialect": "openai"}  # noqa: RUF012

    @post(middleware=[Admission], status_code=200, operation_class=CreateBatchOperation)
    async def create(self, request: Request[Any, Any, Any]) -> ASGIApp:
        """Answer the requests of a file in the background, interactive requests first."""
        jobs, owner = _jobs(request), _owner(request)
        calls: Calls = request.app.state["job_calls"]
        operations = calls.operations
        asked = parse_create(await whole_body(request.scope, request.receive), list(operations))
        require_task(request.scope, operations[asked.endpoint].task)
        _check_id(FILE, FILE_ID, asked.input_file_id)
        now = jobs.database.now()
        job = Job(
            id=new_job_id(),
            owner=owner,
            endpoint=asked.endpoint,
            input_file_id=asked.input_file_id,
            output_file_id=new_file_id(),
            error_file_id=new_file_id(),
            window=asked.window,
            created_at=now,
            expires_at=now + asked.window_seconds,
            output_seconds=asked.output_seconds or jobs.settings.keep_seconds,
            metadata=asked.metadata,
        )
        await jobs.add(job)
        return _json(batch_json(job))

    @get(operation_class=BatchesOperation)
    async def list_batches(self, request: Request[Any, Any, Any]) -> ASGIApp:
        """The caller's batches, the newest first."""
        query = dict(request.query_params.items())
        limit = _limit(query, _DEFAULT_BATCHES, _MOST_BATCHES)
        found = await asyncio.to_thread(
            lambda: _jobs(request).database.jobs(_owner(request), limit=limit + 1, after=query.get("after"))
        )
        return _json(page_json([batch_json(each) for each in found[:limit]], has_more=len(found) > limit))

    @get("/{batch_id:str}", operation_class=ObjectOperation)
    async def show(self, request: Request[Any, Any, Any], batch_id: FromPath[str]) -> ASGIApp:
        """One of the caller's batches."""
        _check_id(JOB, JOB_ID, batch_id)
        return _json(batch_json(await asyncio.to_thread(_jobs(request).database.job, batch_id, _owner(request))))

    @post("/{batch_id:str}/cancel", status_code=200, operation_class=ObjectOperation)
    async def cancel(self, request: Request[Any, Any, Any], batch_id: FromPath[str]) -> ASGIApp:
        """Stop a batch; results so far are kept."""
        _check_id(JOB, JOB_ID, batch_id)
        return _json(batch_json(await _jobs(request).cancel(batch_id, _owner(request))))


class JobsOffController(Controller):
    """Says how files and batches are switched on."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    opt = {"dialect": "openai"}  # noqa: RUF012
    include_in_schema = False

    @get([FILES_PATH, BATCHES_PATH, f"{FILES_PATH}/{{rest:path}}", f"{BATCHES_PATH}/{{rest:path}}"])
    async def read(self) -> None:
        """Refuse."""
        raise JobsOff

    @post([FILES_PATH, BATCHES_PATH, f"{BATCHES_PATH}/{{rest:path}}"])
    async def write(self) -> None:
        """Refuse."""
        raise JobsOff

    @delete(f"{FILES_PATH}/{{rest:path}}")
    async def remove(self) -> None:
        """Refuse."""
        raise JobsOff


def _jobs(request: Request[Any, Any, Any]) -> JobService:
    jobs: JobService = request.app.state["jobs"]
    return jobs


def _owner(request: Request[Any, Any, Any]) -> str:
    return caller_of(request.scope).name


def _json(body: dict[str, Any]) -> WrittenResponse:
    return WrittenResponse.of_json(msgspec.json.encode(body))


async def _file(request: Request[Any, Any, Any], file_id: str) -> StoredFile:
    _check_id(FILE, FILE_ID, file_id)
    return await asyncio.to_thread(_jobs(request).database.file, file_id, _owner(request))


def _check_id(kind: str, pattern: re.Pattern[str], object_id: str) -> None:
    if not pattern.fullmatch(object_id):
        raise ObjectNotFound(kind, object_id)


def _limit(query: dict[str, str], default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= most:
        msg = f"Invalid value: {text[:100]!r}. It is a whole number from 1 to {most}."
        raise InvalidRequest(msg, param="limit", code="invalid_value")
    return int(text)
