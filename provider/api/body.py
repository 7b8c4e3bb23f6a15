"""The body of a request, read to its end and decoded, or refused."""

import asyncio
import zlib
from collections.abc import Iterable

from attrs import frozen
from litestar.types import HTTPScope, Receive

from provider.errors import BodyTooLarge, CallerGone, InvalidRequest, UnsupportedContentEncoding

_CODINGS = {b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}
# How far deflate's format can compress at best: https://zlib.net/zlib_tech.html.
_MOST_EXPANSION = 1032


@frozen
class Framing:
    """What the headers say of a body.

    Attributes:
        announced: bytes on the wire; None for a body sent in chunks.
        coding: how it is compressed, or "".
    """

    announced: int | None
    coding: str

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "Framing":
        """Read `content-length` and `content-encoding`.

        Raises:
            UnsupportedContentEncoding: it is compressed in another way than by gzip or deflate.
        """
        announced, coding = None, b""
        for name, value in headers:
            if name == b"content-length":
                announced = int(value) if value.isdigit() else None
            elif name == b"content-encoding":
                coding = coding + b"," + value if coding else value
        return cls(announced, _coding(coding) if coding else "")

    def most_bytes(self, limit: int) -> int:
        """How large the decoded body may turn out, where at most `limit` is accepted."""
        if self.announced is None:
            return limit
        return min(limit, self.announced * (_MOST_EXPANSION if self.coding else 1))


async def read_body(scope: HTTPScope, receive: Receive, *, max_bytes: int) -> bytes:
    """All of the body, decoded.

    Litestar's own `Request.body` does the same, in several times the time that parsing a short request takes.

    Raises:
        BodyTooLarge: it is, or is announced to be, longer than `max_bytes`, decoded or not.
        CallerGone: the client closed the connection half-way.
        InvalidRequest: it cannot be decoded as its `content-encoding` says.
        UnsupportedContentEncoding: as `Framing.of`.
    """
    framing = Framing.of(scope["headers"])
    if (framing.announced or 0) > max_bytes:
        raise _too_large(max_bytes, f" ({framing.announced} bytes announced)")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            msg = "the client closed the connection while sending its request"
            raise CallerGone(msg)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
        if not message.get("more_body"):
            break
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    # In a thread: a few kilobytes may hold all of `max_bytes`.
    return await asyncio.to_thread(_decoded, body, framing.coding, max_bytes) if framing.coding and body else body


def _coding(value: bytes) -> str:
    names = [name for part in value.lower().split(b",") if (name := part.strip()) not in (b"", b"identity")]
    if not names:
        return ""
    if len(names) == 1 and names[0] in _CODINGS:
        return _CODINGS[names[0]]
    shown = value.decode("latin-1")[:100]
    msg = (
        f"Unsupported Content-Encoding: '{shown}'. A request body may be compressed once, by gzip or deflate. "
        "Use one of them, or send the body as it is, without that header."
    )
    raise UnsupportedContentEncoding(msg)


def _decoded(body: bytes, coding: str, max_bytes: int) -> bytes:
    # gzip's own header; zlib's, which `deflate` means; or none, as some clients understand it.
    has_zlib_header = body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
    decoder = zlib.decompressobj(31 if coding == "gzip" else 15 if has_zlib_header else -15)
    try:
        decoded = decoder.decompress(body, max_bytes + 1)
    except zlib.error as exc:
        raise _undecodable(coding, f"it is damaged or something else ({exc})") from exc
    if len(decoded) > max_bytes:
        raise _too_large(max_bytes, " by the decoded body")
    if not decoder.eof:
        raise _undecodable(coding, f"it ends too early, after {len(body)} bytes")
    if decoder.unused_data:
        raise _undecodable(coding, f"{len(decoder.unused_data)} bytes follow the compressed data")
    return decoded


def _undecodable(coding: str, reason: str) -> InvalidRequest:
    msg = (
        f"The header Content-Encoding says {coding}, but the body cannot be decoded so: {reason}. "
        "Compress it once, or send it as it is, without that header."
    )
    return InvalidRequest(msg, code="invalid_content_encoding")


def _too_large(limit: int, by: str = "") -> BodyTooLarge:
    msg = f"Maximum content size limit ({limit}) exceeded{by}. Send fewer inputs a request."
    return BodyTooLarge(msg)
