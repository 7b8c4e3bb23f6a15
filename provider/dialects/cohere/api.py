"""Cohere's routes that embed; its rerank is one route for several APIs, see `provider.dialects.scores`."""

from dataclasses import replace
from functools import partial
from typing import Any

from litestar import Request
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.cohere import wire
from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.fields import MAX_INT32
from provider.dialects.openai.schemas import (
    MAX_TOKENS,
    MODEL,
    NUMBERS,
    SOME_TEXT,
    TRUNCATED,
    list_of,
    object_of,
    one_of_fields,
    request_of,
    text,
)
from provider.domain import DENSE
from provider.engine.engine import Engine
from provider.http.exchange import answer, parsed

_V2 = "/v2"
_V1_PATH, _V2_PATH, _BARE_PATH = "/v1/embed", f"{_V2}/embed", "/embed"


async def embed_v2(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Embed texts, in one number type or several. What is too long is cut at its end, unless `truncate` is `NONE`."""
    return await _answer(request, body, service, version="2")


async def embed_v1(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """As `POST /v2/embed`; without `embedding_types`, `embeddings` is a bare list of vectors."""
    return await _answer(request, body, service, version="1")


def write_error(failure: Failure) -> dict[str, Any]:
    """Cohere's errors: `message` is what its clients show."""
    return {"id": failure.request_id, "message": failure.message}


async def _answer(request: Request[Any, Any, Any], body: bytes, engine: Engine, *, version: str) -> ASGIApp:
    call = await parsed(request, body, engine, wire.parse)
    asked = await vectors.with_model(request, engine, call.request, call.names)
    embedded = await vectors.embed(request, engine, asked)
    ranges = await vectors.ranges(request, asked, embedded, *call.element_types)
    request_id = str(request.scope["state"]["request_id"])
    write = partial(
        wire.write,
        call,
        embedded,
        version=version,
        request_id=request_id,
        ranges=None if ranges is None else ranges[DENSE],
    )
    return await answer(
        request,
        write,
        size=embedded.vectors.size * vectors.BYTES_PER_NUMBER * max(1, len(call.types)),
        fingerprint=embedded.fingerprint,
        truncated=embedded.truncated,
    )


_TEXTS, _ARRAY = list_of(SOME_TEXT, min_items=1), Schema(type=OpenAPIType.ARRAY)
_PART = object_of(["content"], content=list_of(object_of(["text"], text=SOME_TEXT), min_items=1, max_items=1))
_REQUEST = request_of(
    ["model"],
    one_of=one_of_fields(texts=_ARRAY, inputs=_ARRAY),
    description="Every optional field may be null.",
    properties={
        "model": MODEL,
        "texts": _TEXTS,
        "inputs": list_of(
            _PART, 'Instead of `texts`: `{"content": [{"type": "text", "text": "…"}]}` each.', min_items=1
        ),
        "input_type": text("`search_query`, `search_document`, or the name of another of the model's prompts."),
        "embedding_types": Schema(
            type=OpenAPIType.ARRAY,
            items=text("", enum=["float", "base64", "int8", "uint8", "binary", "ubinary"]),
            description="Default: `float`.",
        ),
        "max_tokens": MAX_TOKENS,
        "truncate": text("What happens to texts that are too long.", enum=["NONE", "START", "END"], default="END"),
        "output_dimension": Schema(
            type=OpenAPIType.INTEGER, minimum=1, maximum=MAX_INT32, description="Keep the leading dimensions."
        ),
    },
)
_TEXTS_REQUEST = replace(
    _REQUEST,
    required=["model", "texts"],
    one_of=None,
    properties={name: each for name, each in (_REQUEST.properties or {}).items() if name != "inputs"}
    | {"texts": _TEXTS},
)
_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    required=["id", "embeddings", "texts", "meta", "response_type"],
    properties={
        "id": text("The request's id in the log."),
        "embeddings": Schema(
            description="By type, a vector for each text; of version 1 without `embedding_types`, the vectors alone.",
            any_of=[Schema(type=OpenAPIType.OBJECT), list_of(NUMBERS)],
        ),
        "texts": _TEXTS,
        "meta": Schema(
            type=OpenAPIType.OBJECT,
            description="`billed_units.input_tokens`: tokens that went through the model. `warnings`: about texts that "
            "were cut.",
        ),
        "response_type": text("", enum=["embeddings_by_type", "embeddings_floats"]),
        "quantization": Schema(
            type=OpenAPIType.OBJECT,
            description="With `int8` or `uint8`: `name` and `source` of the ranges. Integers are comparable under the "
            "same name only.",
        ),
        "truncated": TRUNCATED,
    },
)
_EXAMPLE = {"model": "all-MiniLM-L6-v2", "texts": ["A cat."], "input_type": "search_document"}

COHERE = Dialect(
    name="cohere",
    title="Cohere",
    description="Cohere's embed, versions 1 and 2. Texts that are too long are cut, and `meta.warnings` says so.",
    # No other API has a version 2.
    paths=(_V1_PATH, _V2, _BARE_PATH),
    write_error=write_error,
    routes=(
        Route([_V2_PATH], embed_v2, _REQUEST, _RESPONSE, _EXAMPLE, tasks=["embed"]),
        Route([_V1_PATH], embed_v1, _REQUEST, _RESPONSE, _EXAMPLE, tasks=["embed"]),
        # Continue's; bodies with `inputs` are TEI's.
        Route([_BARE_PATH], embed_v1, _TEXTS_REQUEST, _RESPONSE, _EXAMPLE, tasks=["embed"], told_by=["texts"]),
    ),
)
