"""Cohere's JSON to an `EmbedRequest`, and back. Long texts are cut at their end, unless the request says otherwise."""

from binascii import b2a_base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson
from attrs import evolve

from provider.dialects.fields import BodyReader, ForeignField, model_of, only, refusal, whole
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import cuts, missing, not_empty, texts_of
from provider.dialects.truncation import limit_of
from provider.domain import Embedded, EmbedRequest
from provider.errors import InvalidRequest
from provider.tasks.quantisation import ElementType, Ranges, quantise

_TYPES_FIELD = "embedding_types"
_ELEMENT_TYPES: dict[str, ElementType] = {
    "float": "float32",
    "base64": "float32",
    "int8": "int8",
    "uint8": "uint8",
    "binary": "binary",
    "ubinary": "ubinary",
}


class CohereFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v2/embed`."""

    model: str | None = None
    texts: list[str] | None = None
    inputs: list[dict[str, Any]] | None = None
    input_type: str | None = None
    embedding_types: list[str] | None = None
    truncate: str | None = None
    max_tokens: int | float | None = None
    output_dimension: int | float | None = None


class CohereCall(NamedTuple):
    """A request.

    Attributes:
        request: what to embed; its model is empty where none was named.
        texts: its inputs.
        names: of the fields, as the request has them.
        types: of the vectors in the answer, one or several; empty where none was named.
    """

    request: EmbedRequest
    texts: tuple[str, ...]
    names: FieldNames
    types: tuple[str, ...]

    @property
    def element_types(self) -> list[ElementType]:
        """Of the numbers of each type."""
        return [_ELEMENT_TYPES[each] for each in self.types]


NAMES = FieldNames("texts", options={"dimensions": "output_dimension"}, cut='"truncate": "END"')
INPUTS_NAMES = evolve(NAMES, inputs="inputs")

_ONLY_TEXT = "Only text is embedded."
FOREIGN = {
    **{name: ForeignField(Any, only(instead=_ONLY_TEXT)) for name in ("images", "image")},
}
_reader = BodyReader(CohereFields, FOREIGN)


def parse(body: bytes, *, max_inputs: int, needs_model: bool = True) -> CohereCall:
    """Read a request body.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model, and `needs_model`.
        InvalidRequest: a field has a wrong type or value.
    """
    fields = _reader.read(body)
    types = tuple(dict.fromkeys(each.lower() for each in fields.embedding_types or ()))
    for each in types:
        if each not in _ELEMENT_TYPES:
            raise refusal(_TYPES_FIELD, each, tuple(_ELEMENT_TYPES), "")
    texts = _texts(fields, max_inputs)
    truncate, max_tokens = limit_of(fields.truncate, fields.max_tokens, default="end")
    request = EmbedRequest(
        model=model_of(fields.model, is_needed=needs_model),
        inputs=texts,
        input_type=fields.input_type or None,
        truncate=truncate,
        max_tokens=max_tokens,
        dimensions=None
        if fields.output_dimension is None
        else whole(fields.output_dimension, "output_dimension", least=1, instead="Leave it out for all dimensions."),
    )
    return CohereCall(request, texts, NAMES if fields.inputs is None else INPUTS_NAMES, types)


def write(
    call: CohereCall, embedded: Embedded, *, version: str, request_id: str, ranges: Ranges | None = None
) -> bytes:
    """The response body.

    Args:
        call: what was asked for.
        embedded: the answer.
        version: of the API: `1` answers a bare list of vectors where no type was named.
        request_id: the request's id in the log.
        ranges: for `int8` and `uint8`; their name is told under `quantization`.
    """
    is_bare = version == "1" and not call.types
    by_type = {each: _rows(embedded, each, ranges) for each in call.types or ("float",)}
    tokens = embedded.usage.tokens
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": tokens},
        "tokens": {"input_tokens": tokens},
    }
    answer: dict[str, Any] = {
        "id": request_id,
        "embeddings": by_type["float"] if is_bare else by_type,
        "texts": call.texts,
        "meta": meta,
        "response_type": "embeddings_floats" if is_bare else "embeddings_by_type",
    }
    if ranges is not None:
        answer["quantization"] = {"name": ranges.name, "source": ranges.source}
    if embedded.truncated:
        answer["truncated"] = cuts(embedded.truncated)
        meta["warnings"] = [f"{len(embedded.truncated)} of {len(call.texts)} texts were cut: see `truncated`."]
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _rows(embedded: Embedded, kind: str, ranges: Ranges | None) -> Any:  # noqa: ANN401 - an array or strings
    if kind == "base64":
        return [b2a_base64(row.astype("<f4").tobytes(), newline=False).decode("ascii") for row in embedded.vectors]
    return np.ascontiguousarray(quantise(embedded.vectors, _ELEMENT_TYPES[kind], ranges))


def _texts(fields: CohereFields, max_inputs: int) -> tuple[str, ...]:
    if fields.texts is not None and fields.inputs is not None:
        msg = "'inputs' contradicts 'texts': send one of them."
        raise InvalidRequest(msg, param="inputs", code="invalid_value")
    if fields.inputs is not None:
        return _not_empty(texts_of(_parts(fields.inputs), "inputs", max_inputs), "inputs")
    if fields.texts is None:
        raise missing(param="texts")
    return _not_empty(texts_of(fields.texts, "texts", max_inputs), "texts")


def _parts(inputs: Sequence[dict[str, Any]]) -> list[str]:
    """The text of each input, whose `content` is a list of one part."""
    found = []
    for index, each in enumerate(inputs):
        parts = each.get("content")
        part = parts[0] if isinstance(parts, list) and len(parts) == 1 else None
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            msg = (
                f"Invalid 'inputs[{index}]': of `content`, a list of one part is read: "
                f'[{{"type": "text", "text": "…"}}]. {_ONLY_TEXT}'
            )
            raise InvalidRequest(msg, param=f"inputs[{index}]", code="invalid_type")
        found.append(part["text"])
    return found


def _not_empty(texts: Sequence[str], param: str) -> tuple[str, ...]:
    return tuple(not_empty(each, f"{param}[{i}]") for i, each in enumerate(texts))
