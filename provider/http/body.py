"""The body of a request, read to its end and decoded, or refused."""

import asyncio
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from litestar.types import Receive

from provider.errors import BodyTooLarge, CallerGone, InvalidRequest, UnsupportedContentEncoding
from provider.http.budget import FREE_BYTES, Share
from provider.settings import LimitSettings

_CODINGS = {b"gzip": "gzip", b"x-gzip": "gzip", b"deflate": "deflate"}
# How far deflate's format can compress at best: https://zlib.net/zlib_tech.html.
_MOST_EXPANSION = 1032
_GZIP_MAGIC = b"\x1f\x8b"
# More are no length of anything, and from 4,300 on Python reads no number.
_LENGTH_DIGITS = 20
# A member takes 20 bytes and may hold nothing: millions of them would keep a thread busy for a minute.
_MOST_MEMBERS = 10_000
# What is left of a part after a member's end is copied, so parts are small.
_PART_BYTES = 16_384
# Parsing so many takes 25 ms.
_MOST_ELEMENTS = 500_000
_MOST_PARTS = 100_000
# What fits into a core's cache.
_SLICE_BYTES = 262_144


class Framing(NamedTuple):
    """What the headers say of a body and of its answer.

    Attributes:
        announced: bytes on the wire; None for a body sent in chunks.
        coding: how it is compressed, or "".
        content_type: the header's value; empty where there is none.
        priority: that of `x-priority`.
        timeout_ms: that of `x-request-timeout-ms`.
    """

    announced: int | None
    coding: str
    content_type: bytes = b""
    priority: bytes = b""
    timeout_ms: bytes = b""

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "Framing":
        """Read `content-length`, `content-encoding`, `content-type`, and what is asked of the scheduler.

        Raises:
            UnsupportedContentEncoding: it is compressed in another way than by gzip or deflate.
        """
        announced, coding, content_type = None, b"", b""
        priority = timeout_ms = b""
        for name, value in headers:
            if name == b"content-length":
                announced = int(value[:_LENGTH_DIGITS]) if value.isdigit() else None
            elif name == b"content-encoding":
                coding = coding + b"," + value if coding else value
            elif name == b"content-type" and not content_type:
                content_type = value
            elif name == b"x-priority":
                priority = value
            elif name == b"x-request-timeout-ms":
                timeout_ms = value
        return cls(announced, _coding(coding) if coding else "", content_type, priority, timeout_ms)


async def read_body(framing: Framing, receive: Receive, share: Share, *, max_bytes: int) -> bytes:
    """All of the body, decoded.

    Bytes are counted as they arrive: a length that is announced reserves nothing.

    Litestar's own `Request.body` does the same, in several times the time that parsing a short request takes.

    Args:
        framing: what the headers say.
        receive: ASGI.
        share: where the bytes are counted, but for the first `FREE_BYTES`.
        max_bytes: how many are accepted, decoded or not.

    Raises:
        BodyTooLarge: it is, or is announced to be, longer than `max_bytes`, decoded or not.
        CallerGone: the client closed the connection half-way.
        InvalidRequest: it cannot be decoded as its `content-encoding` says.
        Overloaded: bodies of other requests take all the room.
    """
    if (framing.announced or 0) > max_bytes:
        raise _too_large(max_bytes, f" ({framing.announced} bytes announced)")
    chunks: list[bytes] = []
    size, free = 0, FREE_BYTES
    while True:
        message = await receive()
        if message["type"] != "http.request":
            msg = "the client closed the connection while sending its request"
            raise CallerGone(msg)
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if size > free:
            await share.take(size - free)
            free = size
        chunks.append(chunk)
        if not message.get("more_body"):
            break
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    if not framing.coding or not body:
        return body
    # In a thread: a few kilobytes may hold all of `max_bytes`.
    most = min(max_bytes, size * _MOST_EXPANSION)
    await share.take(most)
    decoded = await asyncio.to_thread(_decoded, body, framing.coding, max_bytes)
    share.add(len(decoded) - most)
    return decoded


def check_elements(body: bytes, limits: LimitSettings) -> None:
    """Refuse a body that would take long to parse: a parser lets no other thread run.

    Args:
        body: JSON, or not.
        limits: how many inputs and tokens a request may have; there may be as many elements, and then some.

    Raises:
        InvalidRequest: it has too many elements.
    """
    most = max(_MOST_ELEMENTS, 2 * limits.max_request_tokens)
    most_parts = max(_MOST_PARTS, 16 * limits.max_inputs)
    elements, parts = _count_elements(body)
    if elements > most or parts > most_parts:
        msg = (
            f"Invalid body: it has {elements} elements, {parts} of which are strings, arrays and objects; at most "
            f"{most} and {most_parts} are accepted. Send fewer inputs a request."
        )
        raise InvalidRequest(msg, code="array_above_max_length")


def _count_elements(body: bytes) -> tuple[int, int]:
    """Commas, and strings, arrays and objects, counted outside of strings. Other threads run meanwhile."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    characters = np.frombuffer(body, np.uint8)
    commas = quotes = brackets = 0
    is_inside = False
    for start in range(0, len(characters), _SLICE_BYTES):
        part = characters[start : start + _SLICE_BYTES]
        is_quote = part == ord('"')
        is_quote[0] ^= is_inside
        inside = np.logical_xor.accumulate(is_quote)
        is_quote[0] ^= is_inside
        is_inside = bool(inside[-1])
        commas += int(np.count_nonzero((part == ord(",")) & ~inside))
        brackets += int(np.count_nonzero(((part | 32) == ord("{")) & ~inside))
        quotes += int(np.count_nonzero(is_quote))
    return commas, brackets + quotes // 2


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
    window = 31 if coding == "gzip" else 15 if has_zlib_header else -15
    decoder = zlib.decompressobj(window)
    decoded = bytearray()
    read, members = 0, 1
    while read < len(body):
        if decoder.eof:
            # RFC 1952: a file of gzip is one member or several in a row.
            if coding != "gzip" or not body.startswith(_GZIP_MAGIC, read):
                raise _undecodable(coding, f"{len(body) - read} bytes follow the compressed data")
            members += 1
            if members > _MOST_MEMBERS:
                raise _undecodable(coding, f"it has more than {_MOST_MEMBERS} members")
            decoder = zlib.decompressobj(window)
        part = body[read : read + _PART_BYTES]
        try:
            decoded += decoder.decompress(part, max_bytes + 1 - len(decoded))
        except zlib.error as exc:
            raise _undecodable(coding, f"it is damaged or something else ({exc})") from exc
        if len(decoded) > max_bytes:
            raise _too_large(max_bytes, " by the decoded body")
        read += len(part) - len(decoder.unused_data)
    if not decoder.eof:
        raise _undecodable(coding, f"it ends too early, after {len(body)} bytes")
    return bytes(decoded)


def _undecodable(coding: str, reason: str) -> InvalidRequest:
    msg = (
        f"The header Content-Encoding says {coding}, but the body cannot be decoded so: {reason}. "
        "Compress it once, or send it as it is, without that header."
    )
    return InvalidRequest(msg, code="invalid_content_encoding")


def _too_large(limit: int, by: str = "") -> BodyTooLarge:
    msg = f"Maximum content size limit ({limit}) exceeded{by}. Send fewer inputs a request."
    return BodyTooLarge(msg)
