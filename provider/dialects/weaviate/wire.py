"""The JSON of Weaviate's text2vec-transformers and reranker-transformers, which name no model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from provider.dialects.fields import BodyReader, refusal, whole
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import missing, not_empty, texts_of
from provider.domain import Embedded, EmbedRequest, Scored, ScoreRequest
from provider.errors import InvalidRequest

_POOLING, _TASK_TYPE = "config.pooling_strategy", "config.task_type"
# Weaviate's default, which it sends whatever the model; of the two, only the other one says that someone chose it.
_MASKED_MEAN, _CLS = "masked_mean", "cls"
_ROLES: Mapping[str, str | None] = {"": None, "query": "query", "passage": "document"}


class Config(msgspec.Struct):
    """How `POST /vectors` is to embed."""

    pooling_strategy: str | None = None
    task_type: str | None = None
    dimensions: int | float | None = None


class VectorFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /vectors`."""

    text: str | None = None
    texts: list[str] | None = None
    config: Config | None = None


class RankFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /rerank`; `property` is Weaviate's own note."""

    query: str | None = None
    documents: list[str] | None = None
    property: str | None = None


class VectorsCall(NamedTuple):
    """A request for vectors.

    Attributes:
        request: what to embed; its model is empty.
        is_single: whether it holds a `text`.
        wants_cls: whether the vector of the first token is asked for.
    """

    request: EmbedRequest
    is_single: bool
    wants_cls: bool


NAMES = FieldNames("texts", options={"dimensions": "config.dimensions", "input_type": _TASK_TYPE})
RANK_NAMES = FieldNames("documents")

_vectors_reader, _rank_reader = BodyReader(VectorFields, {}), BodyReader(RankFields, {})


def parse(body: bytes, *, max_inputs: int, needs_model: bool = True) -> VectorsCall:  # noqa: ARG001 - it has none
    """Read the body of `POST /vectors`.

    Raises:
        MalformedJSON: it is no JSON document.
        InvalidRequest: a field has a wrong type or value.
    """
    fields = _vectors_reader.read(body)
    config = fields.config or Config()
    is_single = fields.text is not None
    if is_single and fields.texts is not None:
        msg = "'text' contradicts 'texts': send one of them."
        raise InvalidRequest(msg, param="text", code="invalid_value")
    if fields.text is not None:
        texts: tuple[str, ...] = (not_empty(fields.text, "text"),)
    elif fields.texts is not None:
        given = texts_of(fields.texts, "texts", max_inputs)
        texts = tuple(not_empty(each, f"texts[{i}]") for i, each in enumerate(given))
    else:
        raise missing(param="text")
    pooling = (config.pooling_strategy or _MASKED_MEAN).lower()
    if pooling not in {_MASKED_MEAN, _CLS}:
        raise refusal(_POOLING, pooling, (_MASKED_MEAN, _CLS), "")
    role = (config.task_type or "").lower()
    if role not in _ROLES:
        raise refusal(_TASK_TYPE, role, ("query", "passage"), "")
    limit = "Leave it out for all dimensions."
    request = EmbedRequest(
        model="",
        inputs=texts,
        input_type=_ROLES[role],
        truncate="auto",
        dimensions=whole(config.dimensions, "config.dimensions", least=1, instead=limit) if config.dimensions else None,
    )
    return VectorsCall(request, is_single, pooling == _CLS)


def parse_rank(body: bytes, *, max_inputs: int, needs_model: bool = True) -> ScoreRequest:  # noqa: ARG001 - it has none
    """Read the body of `POST /rerank`; raises as `parse`."""
    fields = _rank_reader.read(body)
    if fields.query is None or fields.documents is None:
        raise missing(param="query" if fields.query is None else "documents")
    texts = texts_of(fields.documents, "documents", max_inputs)
    return ScoreRequest("", texts, (not_empty(fields.query, "query"),), truncate="auto")


def write(call: VectorsCall, embedded: Embedded) -> bytes:
    """The answer of `POST /vectors`."""
    vectors = np.ascontiguousarray(embedded.vectors)
    body = {"text": call.request.inputs[0], "vector": vectors[0]} if call.is_single else {}
    if not call.is_single:
        body = {"texts": call.request.inputs, "vectors": vectors}
    return orjson.dumps(body | {"dims": vectors.shape[1]}, option=orjson.OPT_SERIALIZE_NUMPY)


def write_rank(call: ScoreRequest, scored: Scored) -> bytes:
    """The answer of `POST /rerank`, in the order of the documents: Weaviate sorts."""
    scores: list[dict[str, Any]] = [
        {"document": text, "score": score} for text, score in zip(call.texts, scored.scores[:, 0], strict=True)
    ]
    query = call.queries[0] if call.queries else ""
    return orjson.dumps({"query": query, "scores": scores}, option=orjson.OPT_SERIALIZE_NUMPY)
