"""`POST /v1/embeddings`."""

import asyncio
from functools import partial
from typing import Any

from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Receive, Scope, Send

from provider.api import wire
from provider.api.admission import Admission
from provider.api.auth import RequireKey
from provider.api.body import read_body
from provider.api.connection import while_connected
from provider.api.openapi import NEEDS_KEY, EmbeddingsOperation
from provider.api.routes import EMBEDDINGS_PATHS
from provider.domain import Embedded
from provider.engine.service import EmbeddingService
from provider.errors import UnsupportedContentType

# Reading or writing more than this takes longer than a hop to a thread and back, and would hold up everyone else.
_INLINE_BYTES = 100_000
_BYTES_PER_NUMBER = {"float": 12, "base64": 6}


class EmbeddingsController(Controller):
    """Vectors for texts."""

    middleware = [RequireKey, Admission]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Embeddings"]  # noqa: RUF012

    @post(EMBEDDINGS_PATHS, status_code=200, operation_class=EmbeddingsOperation)
    async def create(
        self,
        request: Request[Any, Any, Any],
        service: NamedDependency[EmbeddingService],
    ) -> ASGIApp:
        """Embed one text or many. Vectors have length 1 and come in the order of the inputs."""
        parsed = await _parse(request, await _read(request, service), service.limits.max_inputs)
        request.scope["state"]["model"] = parsed.request.model
        embedded = await service.embed(parsed.request, waiting=partial(while_connected, request))
        return await _write(parsed, embedded)


async def _read(request: Request[Any, Any, Any], service: EmbeddingService) -> bytes:
    server = request.app.state.settings.server
    body = read_body(request.scope, request.receive, max_bytes=server.max_body_bytes)
    return await service.patience.wait(server.body_seconds, body)


async def _parse(request: Request[Any, Any, Any], body: bytes, max_inputs: int) -> wire.Parsed:
    kind = next((value for name, value in request.scope["headers"] if name == b"content-type"), b"").decode("latin-1")
    kind = kind.partition(";")[0].strip().lower()
    # `curl -d` says application/x-www-form-urlencoded over a JSON body, so only what cannot be JSON is refused.
    if kind.startswith("multipart/"):
        msg = (
            f"Unsupported content type: '{kind}'. This API method only accepts 'application/json' requests, but you "
            f"specified the header 'Content-Type: {kind}'. Please try again with a supported content type."
        )
        raise UnsupportedContentType(msg)
    if len(body) <= _INLINE_BYTES:
        return wire.parse(body, max_inputs=max_inputs)
    return await asyncio.to_thread(wire.parse, body, max_inputs=max_inputs)


async def _write(parsed: wire.Parsed, embedded: Embedded) -> ASGIApp:
    model, encoding = parsed.request.model, parsed.encoding_format
    if embedded.vectors.size * _BYTES_PER_NUMBER[encoding] <= _INLINE_BYTES:
        content = wire.write(embedded, model=model, encoding_format=encoding)
    else:
        content = await asyncio.to_thread(wire.write, embedded, model=model, encoding_format=encoding)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"x-model-fingerprint", embedded.fingerprint.encode()),
    ]
    if embedded.truncated:
        # How many, not which: a list of 2,048 would not fit into the headers that proxies allow. The body has it.
        headers.append((b"x-truncated-inputs", str(len(embedded.truncated)).encode()))
    return _Answer(content, headers)


class _Answer:
    """Bytes on their way out. Litestar's `Response` would take as long as everything before it for a cached vector."""

    def __init__(self, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self._content, self._headers = content, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await send({"type": "http.response.start", "status": 200, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._content, "more_body": False})
