"""The inputs of a request: one text or many, or token ids, in the forms in which OpenAI, TEI and Jina have them."""

from typing import Any, cast

import numpy as np

from provider.dialects.fields import MAX_INT32, SHOWN_CHARACTERS, whole
from provider.domain import Ids
from provider.errors import InvalidRequest

Inputs = str | dict[str, Any] | list[str | int | list[int] | dict[str, Any]]
"""As JSON has them; msgspec takes no union of several array types, and so lets mixtures through."""

# Keys of an item that are not text's own; `type` must be `text`.
_ITEM_KEYS = {"text", "type", "id", "metadata"}


def inputs_of(given: Inputs | None, param: str, max_inputs: int) -> tuple[str, ...] | tuple[Ids, ...]:
    """The texts, or arrays of token ids, of the field `param`: one of OpenAI's four forms, or objects with a text.

    Raises:
        InvalidRequest: it is none of these, empty, or has more than `max_inputs`.
    """
    if given is None:
        msg = f"Missing required parameter: '{param}'."
        raise InvalidRequest(msg, param=param, code="missing_required_parameter")
    if isinstance(given, dict):
        given = _text_of(given, param)
    if isinstance(given, str):
        return (_not_empty(given, param),)
    if not given:
        msg = f"Invalid '{param}': the array is empty. Send at least one string."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    kinds = {type(each) for each in given}
    if dict in kinds:
        given = [_text_of(each, f"{param}[{i}]") if isinstance(each, dict) else each for i, each in enumerate(given)]
        kinds = {type(each) for each in given}
    if len(kinds) > 1:
        msg = f"Invalid '{param}': strings, integers and arrays are mixed. Send strings only, or token ids of one form."
        raise InvalidRequest(msg, param=param, code="invalid_type")
    if kinds == {int}:
        # A flat array of integers is one input, not many.
        return (_ids(cast("list[int]", given), param),)
    if len(given) > max_inputs:
        msg = f"Invalid '{param}': array length must be {max_inputs} or less. Got {len(given)} inputs."
        raise InvalidRequest(msg, param=param, code="array_above_max_length")
    if kinds == {str}:
        texts = cast("list[str]", given)
        return tuple(_not_empty(text, f"{param}[{i}]") for i, text in enumerate(texts))
    return tuple(_ids(ids, f"{param}[{i}]") for i, ids in enumerate(cast("list[list[int]]", given)))


def dimensions_of(given: float) -> int:
    """A request's `dimensions`; the model's own width is not known here.

    Raises:
        InvalidRequest: it is a fraction, or too large for any model.
    """
    return whole(given, "dimensions", least=-MAX_INT32, instead="`GET /v1/models` shows how many the model has.")


def _text_of(item: dict[str, Any], param: str) -> str:
    text = item.get("text")
    given = {key for key, value in item.items() if value not in (None, "", []) or key == "text"}
    if not isinstance(text, str) or not given <= _ITEM_KEYS or item.get("type", "text") != "text":
        keys = ", ".join(sorted(given))[:SHOWN_CHARACTERS] or "nothing"
        msg = (
            f"Invalid type for '{param}': expected a string, but got an object with {keys} instead. "
            'Of objects, {"text": "…"} alone is read: only text is embedded.'
        )
        raise InvalidRequest(msg, param=param, code="invalid_type")
    return text


def _not_empty(text: str, param: str) -> str:
    if not text:
        msg = f"Invalid '{param}': input cannot be an empty string."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return text


def _ids(ids: list[int], param: str) -> Ids:
    if not ids:
        msg = f"Invalid '{param}': the array of token ids is empty."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    if min(ids) < 0 or max(ids) > MAX_INT32:
        msg = f"Invalid '{param}': token ids are integers from 0 to {MAX_INT32}."
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return np.array(ids, np.int32)
