"""The routes of text2vec-transformers and reranker-transformers. The only model that fits is used."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIResponse, OpenAPIType, Operation, Schema
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.fields import MAX_INT32
from provider.dialects.openai.schemas import NUMBERS, SOME_TEXT, list_of, one_of_fields, request_of
from provider.dialects.scores.controller import answer_scored, scored_by
from provider.dialects.weaviate import wire
from provider.domain import DENSE, DenseTask
from provider.engine.engine import Engine
from provider.errors import InvalidRequest
from provider.http.auth import RequireKey, caller_of
from provider.http.exchange import answer, model_for, parsed
from provider.http.openapi import NEEDS_KEY

_TITLE = "Weaviate"
_VECTORS_PATH, _META_PATH, _PROBES = "/vectors", "/meta", "/.well-known"
_BYTES_PER_RESULT = 100


async def embed(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Embed one text or many, as text2vec-transformers does. What is too long is cut at its end."""
    call = await parsed(request, body, service, wire.parse)
    asked = await vectors.with_model(request, service, call.request, wire.NAMES)
    dense = (await service.runtime(asked.model, caller_of(request.scope)).ready()).spec.find(DenseTask)
    if call.wants_cls and dense is not None and dense.pooling != ("cls",):
        msg = f"Invalid 'config.pooling_strategy': 'cls'. This model's files say {', '.join(dense.pooling)}."
        raise InvalidRequest(msg, param="config.pooling_strategy", code="invalid_value")
    embedded = await vectors.embed(request, service, asked)
    return await answer(
        request,
        partial(wire.write, call, embedded),
        size=embedded.vectors.size * vectors.BYTES_PER_NUMBER,
        fingerprint=embedded.fingerprint,
        truncated=embedded.truncated,
    )


async def rank(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Score documents by their relevance to a query, as reranker-transformers does."""
    call = await parsed(request, body, service, wire.parse_rank)
    _, scored = await scored_by(request, service, call, wire.RANK_NAMES, one_label=True)
    size = _BYTES_PER_RESULT * len(call.texts) + 2 * sum(map(len, call.texts))
    return await answer_scored(request, partial(wire.write_rank, call, scored), scored, size)


@dataclass
class _ReadyOperation(Operation):
    """Neither answer has a body."""

    def __post_init__(self) -> None:
        """Put the answers in."""
        self.responses = {
            "204": OpenAPIResponse(description="Every model that was asked for works."),
            "503": OpenAPIResponse(description="Not ready, or draining."),
        }


class WeaviateController(Controller):
    """What Weaviate asks when it starts."""

    tags = [_TITLE]  # noqa: RUF012 - Litestar's way
    opt = {"dialect": "weaviate"}  # noqa: RUF012

    @get(_META_PATH, middleware=[RequireKey], security=NEEDS_KEY)
    async def meta(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> dict[str, Any]:
        """The model that requests without a name get."""
        caller = caller_of(request.scope)
        name = await model_for(service, caller, f"give {DENSE}", lambda spec: DENSE in spec.outputs)
        spec = (await service.runtime(name, caller).ready()).spec
        return {"model": name, "architecture": spec.architecture, "dims": spec.dense.dimension}

    @get(f"{_PROBES}/live", status_code=204)
    async def live(self) -> None:
        """The process answers."""

    @get(f"{_PROBES}/ready", status_code=204, operation_class=_ReadyOperation)
    async def ready(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> Response[None]:
        """204 when every model works that was asked for, else 503; `GET /health/ready` has the reasons."""
        is_ready = not service.problems and not request.app.state.lifecycle.is_draining
        return Response(None, status_code=204 if is_ready else 503)


def write_error(failure: Failure) -> dict[str, Any]:
    """Errors are a text."""
    return {"error": failure.message}


_TEXT, _INTEGER = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.INTEGER)
_TEXTS = list_of(SOME_TEXT, min_items=1)
_CONFIG = request_of(
    [],
    {
        "task_type": Schema(type=OpenAPIType.STRING, enum=["query", "passage"]),
        "dimensions": Schema(
            type=OpenAPIType.INTEGER, minimum=0, maximum=MAX_INT32, description="Keep the leading so many. 0: all."
        ),
        "pooling_strategy": Schema(
            type=OpenAPIType.STRING,
            enum=["masked_mean", "cls"],
            description="The model's own is used; `cls` is refused by models with another.",
        ),
    },
)
_VECTORS_REQUEST = request_of(
    [],
    {"text": SOME_TEXT, "texts": _TEXTS, "config": _CONFIG},
    description="`text` or `texts`.",
    one_of=one_of_fields(text=_TEXT, texts=Schema(type=OpenAPIType.ARRAY)),
)
_VECTORS_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    description="`vector` of `text`, or `vectors` of `texts`.",
    properties={
        "text": _TEXT,
        "vector": NUMBERS,
        "texts": _TEXTS,
        "vectors": list_of(NUMBERS),
        "dims": _INTEGER,
    },
)
_RANK_REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    required=["query", "documents", "property"],
    properties={"query": SOME_TEXT, "documents": list_of(_TEXT, min_items=1), "property": _TEXT},
)
_SCORE = Schema(type=OpenAPIType.OBJECT, properties={"document": _TEXT, "score": Schema(type=OpenAPIType.NUMBER)})
_RANK_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    properties={"query": _TEXT, "scores": Schema(type=OpenAPIType.ARRAY, items=_SCORE)},
)

WEAVIATE = Dialect(
    name="weaviate",
    title=_TITLE,
    description="What Weaviate's text2vec-transformers and reranker-transformers ask. Texts that are too long are cut, "
    "and `x-truncated-inputs` says how many.",
    paths=(_VECTORS_PATH, _META_PATH, _PROBES),
    write_error=write_error,
    routes=(
        Route([_VECTORS_PATH], embed, _VECTORS_REQUEST, _VECTORS_RESPONSE, {"text": "A cat."}, tasks=["embed"]),
        Route(
            ["/rerank"],
            rank,
            _RANK_REQUEST,
            _RANK_RESPONSE,
            {"query": "cat", "documents": ["A cat.", "A dog."], "property": "content"},
            tasks=["rerank"],
            told_by=["property"],
        ),
    ),
    handlers=(WeaviateController,),
)
