"""OpenAI's JSON to `EmbedRequest`, and `Embedded` to OpenAI's JSON, with OpenAI's messages where it has them."""

import base64
import re
from typing import Any, Literal, NoReturn, cast

import msgspec
import numpy as np
import orjson
from attrs import frozen

from provider.api.fields import AllFields, OwnFields, read_foreign, truncation
from provider.api.malformed import UTF8_BOM, explain, is_encoded_twice
from provider.domain import Embedded, EmbedRequest, Ids
from provider.errors import InvalidRequest, MissingModel

EncodingFormat = Literal["float", "base64"]

_FORMATS: dict[str, EncodingFormat] = {"": "float", "float": "float", "base64": "base64"}
_MAX_INT32 = 2**31 - 1
# Of a wrong value; it may be as long as the body.
_SHOWN_CHARACTERS = 100
# Keys of an item of `input` that are not text's own; `type` must be `text`.
_ITEM_KEYS = {"text", "type", "id", "metadata"}


@frozen
class Parsed:
    """A request, and how its answer is to be written."""

    request: EmbedRequest
    encoding_format: EncodingFormat


_own_fields, _all_fields = msgspec.json.Decoder(OwnFields), msgspec.json.Decoder(AllFields)


def parse(body: bytes, *, max_inputs: int) -> Parsed:
    """Read a request body.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    fields = _decode(body)
    if not fields.model:
        msg = "you must provide a model parameter"
        raise MissingModel(msg)
    encoding_format = _FORMATS.get((fields.encoding_format or "").lower())
    if encoding_format is None:
        given = str(fields.encoding_format)[:_SHOWN_CHARACTERS]
        msg = f"Invalid value for 'encoding_format' = {given}. Supported values: ['float', 'base64']."
        raise InvalidRequest(msg, param="encoding_format")
    request = EmbedRequest(
        model=fields.model,
        inputs=_narrow(fields.input, max_inputs),
        prompt=fields.prompt,
        prompt_name=fields.prompt_name or None,
        input_type=fields.input_type or None,
        truncate=None if fields.truncate is None else truncation(fields.truncate),
        dimensions=None if fields.dimensions is None else _whole(fields.dimensions),
        normalize=fields.normalize,
    )
    return Parsed(request, encoding_format)


def _decode(body: bytes) -> OwnFields:
    try:
        return _own_fields.decode(body)
    except msgspec.ValidationError:
        return _decode_all(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        # RFC 8259 lets a parser ignore the mark, and Windows' tools write it.
        if body.startswith(UTF8_BOM):
            return _decode_all(body.removeprefix(UTF8_BOM))
        explain(body, exc)


def _decode_all(body: bytes) -> OwnFields:
    """Decode again, with all fields: one is not ours or of another type, or a byte order mark was cut off."""
    try:
        fields = _all_fields.decode(body)
    except msgspec.ValidationError as exc:
        _raise_invalid(exc, body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        explain(body, exc)
    read_foreign(fields)
    return fields


def write(embedded: Embedded, *, model: str, encoding_format: EncodingFormat) -> bytes:
    """The response body.

    `base64` is the little-endian float32 bytes of each vector. `float` prints the shortest decimal that reads back as
    the same float32. Inputs that were cut are listed under `truncated`; the field is absent if none was.

    Args:
        embedded: the answer.
        model: what the client called the model: OpenAI echoes it.
        encoding_format: how vectors are written.
    """
    rows = embedded.vectors
    if encoding_format == "base64":
        little_endian = np.ascontiguousarray(rows, "<f4")
        values: list[Any] = [base64.b64encode(row.data).decode("ascii") for row in little_endian]
    else:
        values = list(rows)
    body: dict[str, Any] = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(values)],
        "model": model,
        "usage": {"prompt_tokens": embedded.usage.tokens, "total_tokens": embedded.usage.tokens},
    }
    if embedded.truncated:
        body["truncated"] = [
            {"index": each.index, "kept_tokens": each.kept_tokens, "original_tokens": each.original_tokens}
            for each in embedded.truncated
        ]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _narrow(
    given: str | dict[str, Any] | list[str | int | list[int] | dict[str, Any]] | None, max_inputs: int
) -> tuple[str, ...] | tuple[Ids, ...]:
    """One of OpenAI's four forms of `input`, or Jina's objects with a text, as texts or as token ids."""
    if given is None:
        msg = "Missing required parameter: 'input'."
        raise InvalidRequest(msg, param="input", code="missing_required_parameter")
    if isinstance(given, dict):
        given = _text_of(given, "input")
    if isinstance(given, str):
        return (_not_empty(given, "input"),)
    if not given:
        msg = "Invalid 'input': the array is empty. Send at least one string."
        raise InvalidRequest(msg, param="input", code="invalid_value")
    kinds = {type(each) for each in given}
    if dict in kinds:
        given = [_text_of(each, f"input[{i}]") if isinstance(each, dict) else each for i, each in enumerate(given)]
        kinds = {type(each) for each in given}
    if len(kinds) > 1:
        msg = "Invalid 'input': strings, integers and arrays are mixed. Send strings only, or token ids of one form."
        raise InvalidRequest(msg, param="input", code="invalid_type")
    if kinds == {int}:
        # A flat array of integers is one input, not many.
        return (_ids(cast("list[int]", given), "input"),)
    if len(given) > max_inputs:
        msg = f"Invalid 'input': array length must be {max_inputs} or less. Got {len(given)} inputs."
        raise InvalidRequest(msg, param="input", code="array_above_max_length")
    if kinds == {str}:
        texts = cast("list[str]", given)
        return tuple(_not_empty(text, f"input[{i}]") for i, text in enumerate(texts))
    return tuple(_ids(ids, f"input[{i}]") for i, ids in enumerate(cast("list[list[int]]", given)))


def _text_of(item: dict[str, Any], param: str) -> str:
    text = item.get("text")
    given = {key for key, value in item.items() if value not in (None, "", []) or key == "text"}
    if not isinstance(text, str) or not given <= _ITEM_KEYS or item.get("type", "text") != "text":
        keys = ", ".join(sorted(given))[:_SHOWN_CHARACTERS] or "nothing"
        msg = (
            f"Invalid type for '{param}': expected a string, but got an object with {keys} instead. "
            'Of objects, {"text": "…"} alone is read: only text is embedded.'
        )
        raise InvalidRequest(msg, param=param, code="invalid_type")
    return text


def _whole(dimensions: float) -> int:
    if isinstance(dimensions, float) and not dimensions.is_integer():
        msg = "Invalid type for 'dimensions': expected an integer, but got a number instead."
        raise InvalidRequest(msg, param="dimensions", code="invalid_type")
    if abs(dimensions) > _MAX_INT32:
        msg = "Invalid 'dimensions': the number is too large. `GET /v1/models` shows how many the model has."
        raise InvalidRequest(msg, param="dimensions", code="invalid_value")
    return int(dimensions)


def _not_empty(text: str, param: str) -> str:
    if not text:
        msg = f"Invalid '{param}': input cannot be an empty string."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return text


def _ids(ids: list[int], param: str) -> Ids:
    if not ids:
        msg = f"Invalid '{param}': the array of token ids is empty."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    if min(ids) < 0 or max(ids) > _MAX_INT32:
        msg = f"Invalid '{param}': token ids are integers from 0 to {_MAX_INT32}."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return np.array(ids, np.int32)


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_GOT = re.compile(r"^Expected `(?P<expected>[^`]*)`, got `(?P<got>[^`]*)`$")
_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "an array",
    "object": "an object",
    "null": "null",
}


def _raise_invalid(exc: msgspec.ValidationError, body: bytes) -> NoReturn:
    """Msgspec's words in OpenAI's."""
    match = _AT.match(str(exc))
    what, path = (match["what"], match["path"]) if match else (str(exc), None)
    got = _GOT.match(what)
    param = path or None
    if got is None:
        # A number out of range, or text that is no Unicode.
        msg = f"Invalid '{param or 'body'}': {what}."
        raise InvalidRequest(msg, param=param, code="invalid_value") from exc
    names = got["expected"].split(" | ")
    # Only what is usual is told: an integer may be written as 128.0, and a string as an object.
    lesser = {"null"} | ({"float"} if "int" in names else set()) | ({"object"} if "str" in names else set())
    kinds = [name for name in names if name not in lesser]
    allowed = [_JSON_NAMES.get(name, name) for name in kinds]
    expected = ", ".join(allowed[:-1]) + (" or " if len(allowed) > 1 else "") + allowed[-1]
    found = _JSON_NAMES.get(got["got"], got["got"])
    msg = f"Invalid type for '{param or 'body'}': expected {expected}, but got {found} instead."
    if param is None and got["got"] == "str" and is_encoded_twice(body):
        msg += " The body was encoded as JSON twice: encode the object once."
    raise InvalidRequest(msg, param=param, code="invalid_type") from exc
