"""The bytes of a file, all of them or a range, from the disk to the connection a part at a time."""

import asyncio
import re
from pathlib import Path

from litestar.types import Receive, Scope, Send

from provider.errors import ObjectNotFound, RangeNotSatisfiable
from provider.jobs.database import FILE
from provider.jobs.obstacles import finished
from provider.jobs.records import StoredFile

_READ_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


class FileContent:
    """An ASGI response with a file, or with the range of it that the request names.

    Several ranges are answered with the whole file, as RFC 9110 allows. A file never changes, so its id is its tag.
    """

    def __init__(self, path: Path, file: StoredFile) -> None:
        self._path, self._file = path, file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """ASGI.

        Raises:
            RangeNotSatisfiable: the range begins behind the end.
            ObjectNotFound: the file was removed meanwhile.
        """
        file, tag = self._file, f'"{self._file.id}"'
        part = self._part(scope, tag)
        wanted = range(file.size) if part is None else part
        try:
            source = await finished(lambda: self._path.open("rb", 0))
        except FileNotFoundError as exc:
            raise ObjectNotFound(FILE, file.id) from exc
        with source:
            name = re.sub(r"[^ -!#-\[\]-~]", "_", file.filename)
            headers = {
                "content-type": "application/octet-stream",
                "content-length": str(len(wanted)),
                "content-disposition": f'attachment; filename="{name}"',
                "accept-ranges": "bytes",
                "etag": tag,
            }
            if part is not None:
                headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{file.size}"
            status = 200 if part is None else 206
            pairs = [(key.encode(), value.encode()) for key, value in headers.items()]
            await send({"type": "http.response.start", "status": status, "headers": pairs})
            await asyncio.to_thread(source.seek, wanted.start)
            left = len(wanted)
            while left and (data := await asyncio.to_thread(source.read, min(left, _READ_BYTES))):
                left -= len(data)
                await send({"type": "http.response.body", "body": data, "more_body": bool(left)})
            if not wanted:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _part(self, scope: Scope, tag: str) -> range | None:
        """The bytes that the request asks for; None: all."""
        headers = {key: value.decode("latin-1").strip() for key, value in scope["headers"]}
        match = _RANGE.fullmatch(headers.get(b"range", ""))
        size = self._file.size
        if match is None or match.groups() == ("", "") or headers.get(b"if-range", tag) != tag:
            return None
        first, last = match.groups()
        if not first:
            part = range(max(0, size - int(last)), size)
        elif last and int(last) < int(first):
            return None
        else:
            part = range(int(first), min(size, int(last) + 1) if last else size)
        if not part:
            raise RangeNotSatisfiable(size)
        return part
