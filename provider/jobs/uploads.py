"""`multipart/form-data` from the connection to the disk, a part at a time: an upload is never in memory."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import multipart
from attrs import define, field
from litestar import Request
from litestar.types import Receive

from provider.errors import CallerGone, FileTooLarge, InvalidRequest, UnsupportedContentEncoding, UnsupportedContentType
from provider.http.body import Framing
from provider.http.lifecycle import Lifecycle
from provider.jobs.records import StoredFile, new_file_id
from provider.jobs.service import JobService
from provider.jobs.wire import kept_seconds, purpose_of
from provider.settings import ServerSettings

_FORM = "multipart/form-data"
# Enough for a write to the disk to be worth a thread.
_WRITE_BYTES = 1024 * 1024
_MOST_FIELD_BYTES, _MOST_FIELDS = 4096, 16
_MOST_NAME = 255


@define
class _Form:
    """What has come so far."""

    fields: dict[str, str] = field(factory=dict)
    filename: str | None = None
    part: str = ""


async def receive_file(request: Request[Any, Any, Any], jobs: JobService, owner: str) -> StoredFile:
    """The file of an admitted upload, on the disk.

    Raises:
        RequestError: it is no upload, too large, or there is no room for it.
        CallerTooSlow: nothing came for `server.body_seconds`.
        CallerGone: the client left half-way.
    """
    framing: Framing = request.scope["state"]["framing"]
    if framing.coding:
        msg = f"Unsupported Content-Encoding: '{framing.coding}'. Upload the file as it is, without that header."
        raise UnsupportedContentEncoding(msg)
    parser = _parser(framing)
    # The form's own lines come on top.
    most = jobs.settings.max_file_bytes
    if (framing.announced or 0) > most + _MOST_FIELDS * _MOST_FIELD_BYTES:
        raise FileTooLarge(most)
    await asyncio.to_thread(jobs.folder.check_room, framing.announced or 0)
    file_id, form = new_file_id(), _Form()
    with jobs.folder.creating(file_id) as new:
        pending = bytearray()
        try:
            async for chunk in _body(request):
                pending += _file_bytes(parser, chunk, form)
                if new.size + len(pending) > most:
                    raise FileTooLarge(most)
                if len(pending) >= _WRITE_BYTES:
                    await asyncio.to_thread(new.write, bytes(pending))
                    pending.clear()
            parser.close()
        except multipart.MultipartError as exc:
            msg = f"The body is not valid {_FORM}: {exc}. Send it as an HTTP client's form upload does."
            raise InvalidRequest(msg, code="invalid_multipart") from exc
        if form.filename is None:
            msg = "Missing required parameter: 'file'. Send the file as a part called file, with a filename."
            raise InvalidRequest(msg, param="file", code="missing_required_parameter")
        purpose = purpose_of(_needed(form.fields, "purpose"))
        now = jobs.database.now()
        file = StoredFile(
            file_id, owner, form.filename, purpose, new.size + len(pending), now, now + _kept(form.fields, jobs)
        )

        def finish() -> None:
            new.write(bytes(pending))
            new.sync()
            jobs.database.add_file(file)

        await asyncio.to_thread(finish)
        new.is_kept = True
    return file


def _parser(framing: Framing) -> multipart.PushMultipartParser:
    header = framing.content_type.decode("latin-1")
    kind, options = multipart.parse_options_header(header)
    boundary = options.get("boundary")
    if kind.lower() != _FORM or not boundary:
        shown = header.partition(";")[0].strip()[:100] or "none"
        msg = f"Unsupported content type: '{shown}'. Send the file as {_FORM}, with the fields file and purpose."
        raise UnsupportedContentType(msg)
    try:
        return multipart.PushMultipartParser(boundary, max_segment_count=_MOST_FIELDS, strict=True)
    except multipart.MultipartError as exc:
        msg = f"The boundary in the header Content-Type is not valid: {exc}."
        raise InvalidRequest(msg, code="invalid_multipart") from exc


def _file_bytes(parser: multipart.PushMultipartParser, chunk: bytes, form: _Form) -> bytes:
    """What `chunk` has of the file; the rest goes into `form`."""
    found = b""
    for event in parser.parse(chunk):
        if isinstance(event, multipart.MultipartSegment):
            form.part = event.name
            if event.name == "file":
                if form.filename is not None:
                    msg = "The form has two parts called file. Upload one file a request."
                    raise InvalidRequest(msg, param="file", code="invalid_value")
                form.filename = re.sub(r"[\x00-\x1f\x7f/\\]", "_", event.filename or "upload.jsonl")[-_MOST_NAME:]
            else:
                form.fields[event.name] = ""
        elif event is not None:
            name = form.part
            if name == "file":
                found += event
            else:
                form.fields[name] += event.decode("utf-8", "replace")
                if len(form.fields[name]) > _MOST_FIELD_BYTES:
                    msg = f"The field {name[:100]!r} is longer than {_MOST_FIELD_BYTES} bytes."
                    raise InvalidRequest(msg, param=name[:100], code="invalid_value")
    return found


async def _body(request: Request[Any, Any, Any]) -> AsyncIterator[bytes]:
    state = request.scope["litestar_app"].state
    server: ServerSettings = state["settings"].server
    lifecycle: Lifecycle = state["lifecycle"]
    receive: Receive = request.receive
    while True:
        message: Any = await lifecycle.deadlines.wait(server.body_seconds, receive())
        if message["type"] != "http.request":
            msg = "the client closed the connection while sending its file"
            raise CallerGone(msg)
        if chunk := message.get("body", b""):
            yield chunk
        if not message.get("more_body"):
            return


def _needed(fields: dict[str, str], name: str) -> str:
    if name not in fields:
        msg = f"Missing required parameter: '{name}'."
        raise InvalidRequest(msg, param=name, code="missing_required_parameter")
    return fields[name]


def _kept(fields: dict[str, str], jobs: JobService) -> int:
    """Seconds: `expires_after[seconds]`, else as configured."""
    if not any(name.startswith("expires_after") for name in fields):
        return jobs.settings.keep_seconds
    # Under another name it would be a wish that is not granted.
    seconds = _needed(fields, "expires_after[seconds]")
    if not re.fullmatch(r"[0-9]{1,9}", seconds):
        msg = f"Invalid value: {seconds[:100]!r}. It is a number of seconds."
        raise InvalidRequest(msg, param="expires_after.seconds", code="invalid_value")
    return kept_seconds(int(seconds), fields.get("expires_after[anchor]", "created_at"), "expires_after")
