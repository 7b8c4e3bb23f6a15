"""`POST /v1/embeddings`."""

from functools import partial
from typing import Any

from attrs import evolve
from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.openai import wire
from provider.dialects.openai.operations import EmbeddingsOperation
from provider.dialects.phrases import FieldNames
from provider.engine.engine import Engine
from provider.http.admission import Admission
from provider.http.auth import RequireKey
from provider.http.exchange import AnswersRepeats, answer, parsed
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import EMBEDDINGS_PATHS

_NAMES = FieldNames()
_BYTES_PER_NUMBER = {"float": 12, "base64": 6}


class EmbeddingsController(Controller):
    """Vectors for texts."""

    middleware = [RequireKey, Admission, AnswersRepeats]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Embeddings"]  # noqa: RUF012
    opt = {"dialect": "openai"}  # noqa: RUF012

    @post(EMBEDDINGS_PATHS, status_code=200, operation_class=EmbeddingsOperation, opt={"tasks": ["embed"]})
    async def create(
        self,
        request: Request[Any, Any, Any],
        service: NamedDependency[Engine],
    ) -> ASGIApp:
        """Embed one text or many. Vectors have length 1 and come in the order of the inputs."""
        return await answer_embeddings(request, request.scope["state"].pop("body"), service)


async def answer_embeddings(
    request: Request[Any, Any, Any], body: bytes, service: Engine, *, named: str | None = None
) -> ASGIApp:
    """The answer to `body`; the model is `named`, if something else than the body names it."""
    revision = service.responses.revision
    parse = partial(_parse, named=named)
    call = await parsed(request, body, service, parse)
    asked = await vectors.with_model(request, service, call.request, _NAMES)
    embedded = await vectors.embed(request, service, asked)
    ranges = await vectors.ranges(request, asked, embedded, call.element_type)
    size = sum(map(wire.numbers, embedded.outputs.values())) * _BYTES_PER_NUMBER[call.encoding_format]
    write = partial(wire.write, embedded, call, model=asked.model, ranges=ranges)
    response = await answer(request, write, size=size, fingerprint=embedded.fingerprint, truncated=embedded.truncated)
    if call.request.model and not named:
        # Without a name in the body, it also depends on the path, or on which models are loaded.
        service.responses.keep(body, response, embedded, revision=revision, size=len(response.content))
    return response


def _parse(body: bytes, *, named: str | None, max_inputs: int, needs_model: bool) -> wire.Parsed:
    call = wire.parse(body, max_inputs=max_inputs, needs_model=needs_model and named is None)
    return call if named is None else call._replace(request=evolve(call.request, model=named))
