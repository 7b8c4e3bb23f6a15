"""`POST /v1/embeddings`."""

import asyncio
from typing import Any

from litestar import Controller, MediaType, Request, Response, post
from litestar.di import NamedDependency

from provider.api import wire
from provider.api.auth import require_key
from provider.api.connection import while_connected
from provider.api.openapi import EmbeddingsOperation
from provider.api.routes import EMBEDDINGS_PATHS
from provider.domain import Embedded
from provider.engine.service import EmbeddingService
from provider.errors import UnsupportedContentType
from provider.settings import LimitSettings

# Reading or writing more than this takes longer than a hop to a thread and back, and would hold up everyone else.
_INLINE_BYTES = 100_000
_BYTES_PER_NUMBER = {"float": 12, "base64": 6}


class EmbeddingsController(Controller):
    """Vectors for texts."""

    guards = [require_key]  # noqa: RUF012 - Litestar's way
    tags = ["Embeddings"]  # noqa: RUF012

    @post(EMBEDDINGS_PATHS, status_code=200, operation_class=EmbeddingsOperation)
    async def create(
        self,
        request: Request[Any, Any, Any],
        service: NamedDependency[EmbeddingService],
        limits: NamedDependency[LimitSettings],
    ) -> Response[bytes]:
        """Embed one text or many. Vectors have length 1 and come in the order of the inputs."""
        with service.admission(_announced_bytes(request)):
            parsed = await _parse(request, await request.body(), limits)
            embedded = await while_connected(request, service.embed(parsed.request))
            return await _write(parsed, embedded)


def _announced_bytes(request: Request[Any, Any, Any]) -> int:
    """How large the body may turn out: what is announced, or the limit for a body sent in chunks."""
    limit: int = request.app.state.settings.server.max_body_bytes
    announced = request.headers.get("content-length", "")
    return min(int(announced), limit) if announced.isdecimal() else limit


async def _parse(request: Request[Any, Any, Any], body: bytes, limits: LimitSettings) -> wire.Parsed:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # `curl -d` says application/x-www-form-urlencoded over a JSON body, so only what cannot be JSON is refused.
    if kind.startswith("multipart/"):
        msg = (
            f"Unsupported content type: '{kind}'. This API method only accepts 'application/json' requests, but you "
            f"specified the header 'Content-Type: {kind}'. Please try again with a supported content type."
        )
        raise UnsupportedContentType(msg)
    if len(body) <= _INLINE_BYTES:
        return wire.parse(body, max_inputs=limits.max_inputs)
    return await asyncio.to_thread(wire.parse, body, max_inputs=limits.max_inputs)


async def _write(parsed: wire.Parsed, embedded: Embedded) -> Response[bytes]:
    model, encoding = parsed.request.model, parsed.encoding_format
    if embedded.vectors.size * _BYTES_PER_NUMBER[encoding] <= _INLINE_BYTES:
        content = wire.write(embedded, model=model, encoding_format=encoding)
    else:
        content = await asyncio.to_thread(wire.write, embedded, model=model, encoding_format=encoding)
    headers = {}
    if embedded.truncated:
        headers["x-truncated-inputs"] = ",".join(str(each.index) for each in embedded.truncated)
    return Response(content, media_type=MediaType.JSON, headers=headers)
