"""OpenAI's JSON to `EmbedRequest`, and `Embedded` to OpenAI's JSON, with OpenAI's messages where it has them."""

import base64
import re
from typing import Any, Literal, NoReturn, cast

import msgspec
import numpy as np
import orjson
from attrs import frozen

from provider.domain import Embedded, EmbedRequest, Ids, Truncation
from provider.errors import InvalidRequest, MalformedJSON, MissingModel

EncodingFormat = Literal["float", "base64"]

_TRUNCATE: dict[object, Truncation | None] = {None: None, False: "none", True: "end"} | {
    word: cast("Truncation", word.lower()) for word in ("NONE", "START", "END", "none", "start", "end")
}
_MAX_INT32 = 2**31 - 1
# Of a wrong value; it may be as long as the body.
_SHOWN_CHARACTERS = 100


class EmbeddingsBody(msgspec.Struct):
    """The body of `POST /v1/embeddings`. Unknown fields are ignored: many clients add their own."""

    # msgspec takes no union of several array types; `_narrow` refuses the mixtures that this one lets through.
    input: str | list[str | int | list[int]] | None = None
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | None = None
    truncate: bool | str | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None


@frozen
class Parsed:
    """A request, and how its answer is to be written."""

    request: EmbedRequest
    encoding_format: EncodingFormat


_decoder = msgspec.json.Decoder(EmbeddingsBody)


def parse(body: bytes, *, max_inputs: int) -> Parsed:
    """Read a request body.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    try:
        fields = _decoder.decode(body)
    except msgspec.ValidationError as exc:
        _raise_invalid(exc)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        msg = (
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. This API expects a JSON payload, but what was sent was not valid JSON.)"
        )
        raise MalformedJSON(msg) from exc
    if not fields.model:
        msg = "you must provide a model parameter"
        raise MissingModel(msg)
    if fields.encoding_format not in (None, "float", "base64"):
        given = fields.encoding_format[:_SHOWN_CHARACTERS]
        msg = f"Invalid value for 'encoding_format' = {given}. Supported values: ['float', 'base64']."
        raise InvalidRequest(msg, param="encoding_format")
    if fields.truncate not in _TRUNCATE:
        given = str(fields.truncate)[:_SHOWN_CHARACTERS]
        msg = f"Invalid value: {given!r}. Supported values are: true, false, 'NONE', 'START' and 'END'."
        raise InvalidRequest(msg, param="truncate", code="invalid_value")
    request = EmbedRequest(
        model=fields.model,
        inputs=_narrow(fields.input, max_inputs),
        prompt=fields.prompt,
        prompt_name=fields.prompt_name,
        input_type=fields.input_type,
        truncate=_TRUNCATE[fields.truncate],
        dimensions=fields.dimensions,
    )
    return Parsed(request, "base64" if fields.encoding_format == "base64" else "float")


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


def _narrow(given: str | list[str | int | list[int]] | None, max_inputs: int) -> tuple[str, ...] | tuple[Ids, ...]:
    """One of OpenAI's four forms of `input`, as texts or as token ids."""
    if given is None:
        msg = "Missing required parameter: 'input'."
        raise InvalidRequest(msg, param="input", code="missing_required_parameter")
    if isinstance(given, str):
        return (_not_empty(given, "input"),)
    if not given:
        msg = "Invalid 'input': the array is empty. Send at least one string."
        raise InvalidRequest(msg, param="input", code="invalid_value")
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


def _raise_invalid(exc: msgspec.ValidationError) -> NoReturn:
    """Msgspec's words in OpenAI's."""
    match = _AT.match(str(exc))
    what, path = (match["what"], match["path"]) if match else (str(exc), None)
    got = _GOT.match(what)
    param = path or None
    if got is None:
        # A number out of range, or text that is no Unicode.
        msg = f"Invalid '{param or 'body'}': {what}."
        raise InvalidRequest(msg, param=param, code="invalid_value") from exc
    allowed = [_JSON_NAMES.get(name, name) for name in got["expected"].split(" | ") if name != "null"]
    expected = ", ".join(allowed[:-1]) + (" or " if len(allowed) > 1 else "") + allowed[-1]
    found = _JSON_NAMES.get(got["got"], got["got"])
    msg = f"Invalid type for '{param or 'body'}': expected {expected}, but got {found} instead."
    raise InvalidRequest(msg, param=param, code="invalid_type") from exc
