"""`POST /v1/embeddings`."""

import asyncio
from functools import partial
from typing import Any

from litestar import Controller, MediaType, Request, Response, post
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException

from provider.api import wire
from provider.api.admission import Admission
from provider.api.auth import require_key
from provider.api.connection import while_connected
from provider.api.openapi import EmbeddingsOperation
from provider.api.routes import EMBEDDINGS_PATHS
from provider.domain import Embedded
from provider.engine.service import EmbeddingService
from provider.errors import CallerGone, UnsupportedContentType

# Reading or writing more than this takes longer than a hop to a thread and back, and would hold up everyone else.
_INLINE_BYTES = 100_000
_BYTES_PER_NUMBER = {"float": 12, "base64": 6}


class EmbeddingsController(Controller):
    """Vectors for texts."""

    middleware = [Admission]  # noqa: RUF012 - Litestar's way
    guards = [require_key]  # noqa: RUF012
    tags = ["Embeddings"]  # noqa: RUF012

    @post(EMBEDDINGS_PATHS, status_code=200, operation_class=EmbeddingsOperation)
    async def create(
        self,
        request: Request[Any, Any, Any],
        service: NamedDependency[EmbeddingService],
    ) -> Response[bytes]:
        """Embed one text or many. Vectors have length 1 and come in the order of the inputs."""
        parsed = await _parse(request, await _read(request, service), service.limits.max_inputs)
        request.scope["state"]["model"] = parsed.request.model
        embedded = await service.embed(parsed.request, waiting=partial(while_connected, request))
        return await _write(parsed, embedded)


async def _read(request: Request[Any, Any, Any], service: EmbeddingService) -> bytes:
    try:
        async with service.patience(request.app.state.settings.server.body_seconds):
            return await request.body()
    except InternalServerException as exc:
        # Litestar's way of saying that the client closed the connection half-way.
        msg = "the client closed the connection while sending its request"
        raise CallerGone(msg) from exc


async def _parse(request: Request[Any, Any, Any], body: bytes, max_inputs: int) -> wire.Parsed:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
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


async def _write(parsed: wire.Parsed, embedded: Embedded) -> Response[bytes]:
    model, encoding = parsed.request.model, parsed.encoding_format
    if embedded.vectors.size * _BYTES_PER_NUMBER[encoding] <= _INLINE_BYTES:
        content = wire.write(embedded, model=model, encoding_format=encoding)
    else:
        content = await asyncio.to_thread(wire.write, embedded, model=model, encoding_format=encoding)
    headers = {"x-model-fingerprint": embedded.fingerprint}
    if embedded.truncated:
        # How many, not which: a list of 2,048 would not fit into the headers that proxies allow. The body has it.
        headers["x-truncated-inputs"] = str(len(embedded.truncated))
    return Response(content, media_type=MediaType.JSON, headers=headers)
