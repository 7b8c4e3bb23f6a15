"""OpenAI's JSON to `EmbedRequest`, and `Embedded` to OpenAI's JSON, with OpenAI's messages where it has them."""

import sys
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import orjson
from attrs import evolve
from numpy.typing import NDArray

from provider.dialects.fields import SHOWN_CHARACTERS, BodyReader, model_of
from provider.dialects.inputs import dimensions_of, inputs_of
from provider.dialects.openai.fields import READER, OwnFields, element_type, output_types
from provider.dialects.scores.common import cuts
from provider.dialects.truncation import limit_of
from provider.domain import DENSE, MULTI_VECTOR, Embedded, EmbedRequest, SparseVector
from provider.errors import InvalidRequest
from provider.tasks.quantisation import ElementType, Ranges, quantise

EncodingFormat = Literal["float", "base64"]

_FORMATS: dict[str, EncodingFormat] = {"": "float", "float": "float", "base64": "base64"}
_IS_LITTLE = sys.byteorder == "little"
_KEYS: Mapping[str, str] = {DENSE: "embedding"}
_QUANTISED = (DENSE, MULTI_VECTOR)


class Parsed(NamedTuple):
    """A request, and how its answer is to be written.

    Attributes:
        request: what to embed; its model is empty where none was named.
        encoding_format: how numbers are written.
        element_type: what the numbers of dense and of token vectors are.
    """

    request: EmbedRequest
    encoding_format: EncodingFormat
    element_type: ElementType = "float32"

    @property
    def quantised(self) -> tuple[str, ...]:
        """The outputs whose numbers `element_type` says."""
        return tuple(each for each in self.request.outputs if each in _QUANTISED)

    def giving(self, output: str) -> Self:
        """The same for a route that answers one `output` only.

        Raises:
            InvalidRequest: `output_types` names others.
        """
        if self.request.outputs not in {(DENSE,), (output,)}:
            msg = f"Invalid 'output_types': this request is for {output} only. Ask POST /v1/embeddings for others."
            raise InvalidRequest(msg, param="output_types", code="invalid_value")
        return self._replace(request=evolve(self.request, outputs=(output,)))


def parse(body: bytes, *, max_inputs: int, needs_model: bool = True, reader: BodyReader[OwnFields] = READER) -> Parsed:
    """Read a request body.

    Args:
        body: as it came, decoded.
        max_inputs: most inputs.
        needs_model: whether a body without a model is refused.
        reader: which fields of other APIs are read.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    fields = reader.read(body)
    model = model_of(fields.model, is_needed=needs_model)
    encoding_format = _FORMATS.get((fields.encoding_format or "").lower())
    if encoding_format is None:
        given = str(fields.encoding_format)[:SHOWN_CHARACTERS]
        msg = f"Invalid value for 'encoding_format' = {given}. Supported values: ['float', 'base64']."
        raise InvalidRequest(msg, param="encoding_format")
    truncate, max_tokens = None, None
    if fields.truncate is not None or fields.max_tokens is not None:
        truncate, max_tokens = limit_of(fields.truncate, fields.max_tokens)
    request = EmbedRequest(
        model=model,
        inputs=inputs_of(fields.input, "input", max_inputs),
        prompt=fields.prompt,
        prompt_name=fields.prompt_name or None,
        input_type=fields.input_type or None,
        truncate=truncate,
        max_tokens=max_tokens,
        dimensions=None if fields.dimensions is None else dimensions_of(fields.dimensions),
        normalize=fields.normalize,
        outputs=(DENSE,) if fields.output_types is None else output_types(fields.output_types),
    )
    if fields.output_dtype is None:
        return Parsed(request, encoding_format)
    parsed = Parsed(request, encoding_format, element_type(fields.output_dtype))
    if parsed.element_type != "float32" and not parsed.quantised:
        msg = f"Invalid 'output_dtype': {', '.join(request.outputs)} has float numbers only. Leave the field out."
        raise InvalidRequest(msg, param="output_dtype", code="invalid_value")
    return parsed


def write(
    embedded: Embedded,
    parsed: Parsed,
    *,
    model: str,
    ranges: Mapping[str, Ranges] | None = None,
    keys: Mapping[str, str] = _KEYS,
) -> bytes:
    """The response body.

    Args:
        embedded: the answer.
        parsed: what was asked for.
        model: what the client called the model (OpenAI echoes it), or the one that was chosen for it.
        ranges: by output, where the element type needs them; named under `quantization`.
        keys: of outputs that an entry has under another name than their own.
    """
    columns = {
        keys.get(output, output): column(embedded, output, parsed, (ranges or {}).get(output))
        for output in embedded.outputs
    }
    body: dict[str, Any] = {
        "object": "list",
        "data": _entries(columns),
        "model": model,
        "usage": {"prompt_tokens": embedded.usage.tokens, "total_tokens": embedded.usage.tokens},
    }
    if parsed.element_type != "float32":
        body["quantization"] = {"output_dtype": parsed.element_type} | (
            {"ranges": {name: {"name": each.name, "source": each.source} for name, each in ranges.items()}}
            if ranges
            else {}
        )
    if embedded.truncated:
        body["truncated"] = cuts(embedded.truncated)
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _entries(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if len(columns) == 1:
        ((name, column),) = columns.items()
        return [{"object": "embedding", "index": index, name: value} for index, value in enumerate(column)]
    rows = enumerate(zip(*columns.values(), strict=True))
    return [{"object": "embedding", "index": index, **dict(zip(columns, row, strict=True))} for index, row in rows]


def numbers(values: Any) -> int:  # noqa: ANN401 - as the task says
    """About how many numbers one output of all inputs has."""
    if isinstance(values, np.ndarray):
        return values.size
    return sum(2 * len(each.ids) if isinstance(each, SparseVector) else int(np.size(each)) for each in values)


def column(embedded: Embedded, output: str, parsed: Parsed, ranges: Ranges | None = None) -> Sequence[Any]:
    """One output of every input as it is written: numbers, or little-endian bytes in base64.

    `float` prints the shortest decimal that reads back as the same float32.
    """
    values = embedded.outputs[output]
    kind: ElementType = parsed.element_type if output in _QUANTISED else "float32"
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return _rows(quantise(values, kind, ranges), parsed)
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    return [_entry(each, parsed, kind, ranges) for each in values]


def _entry(value: Any, parsed: Parsed, kind: ElementType, ranges: Ranges | None) -> Any:  # noqa: ANN401
    if isinstance(value, SparseVector):
        return {"indices": value.ids, "values": value.weights}
    if isinstance(value, np.ndarray) and value.ndim == 2:
        return _rows(quantise(value, kind, ranges), parsed)
    return value


def _rows(matrix: NDArray[Any], parsed: Parsed) -> list[Any]:
    if parsed.encoding_format == "float":
        return list(np.ascontiguousarray(matrix))
    little_endian = (matrix if _IS_LITTLE else matrix.byteswap()).tobytes()
    width = len(little_endian) // len(matrix)
    starts = range(0, len(little_endian), width)
    return [b2a_base64(little_endian[start : start + width], newline=False).decode("ascii") for start in starts]
