"""`POST /v1/multi-vector`. Jina's vectors and reranking are at OpenAI's and Cohere's paths, which read its fields."""

from functools import partial
from typing import Any

from litestar import Request
from litestar.openapi.spec import Schema
from litestar.types import ASGIApp

from provider.dialects import vectors
from provider.dialects.dialect import Dialect, Route
from provider.dialects.openai import wire
from provider.dialects.openai.api import envelope
from provider.dialects.openai.schemas import INPUT, MODEL, NUMBERS, OPTIONS, list_of, listing, request_of, text
from provider.dialects.phrases import FieldNames
from provider.domain import MULTI_VECTOR
from provider.engine.engine import Engine
from provider.http.exchange import answer, parsed

_PATH = "/v1/multi-vector"


async def embed_tokens(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """A vector for each token of each text."""
    call = await parsed(request, body, service, _parse)
    asked = await vectors.with_model(request, service, call.request, FieldNames())
    embedded = await vectors.embed(request, service, asked)
    ranges = await vectors.ranges(request, asked, embedded, call.element_type)
    write = partial(wire.write, embedded, call, model=asked.model, ranges=ranges, keys={MULTI_VECTOR: "embeddings"})
    size = wire.numbers(embedded.multi_vector) * vectors.BYTES_PER_NUMBER
    return await answer(request, write, size=size, fingerprint=embedded.fingerprint, truncated=embedded.truncated)


def _parse(body: bytes, *, max_inputs: int, needs_model: bool) -> wire.Parsed:
    return wire.parse(body, max_inputs=max_inputs, needs_model=needs_model).giving(MULTI_VECTOR)


_TYPES = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
_REQUEST = request_of(
    ["model", "input"],
    {
        "model": MODEL,
        "input": INPUT,
        "embedding_type": text("`encoding_format` and `output_dtype` in one.", enum=_TYPES),
        **{name: each for name, each in OPTIONS.items() if name != "output_types"},
    },
)
_VECTOR = Schema(any_of=[NUMBERS, text("In base64.", content_encoding="base64")])
_RESPONSE = listing({"embeddings": list_of(_VECTOR)})

JINA = Dialect(
    name="jina",
    title="Jina",
    description="Vectors of tokens. Jina's other fields are read by `POST /v1/embeddings` and `POST /v1/rerank`.",
    paths=(_PATH,),
    write_error=envelope,
    routes=(
        Route(
            [_PATH],
            embed_tokens,
            _REQUEST,
            _RESPONSE,
            {"model": "colbert", "input": ["A cat."], "input_type": "document"},
            tasks=["embed"],
        ),
    ),
)
