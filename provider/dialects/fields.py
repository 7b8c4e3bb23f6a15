"""Bodies of requests to typed fields: our own fields, and those of other APIs, each read as one of ours or refused.

A field of another API that would change the answer is never ignored. Fields that change nothing (`user`, `priority`,
`request_id`, `cache_salt` …) are not listed by a dialect, and are ignored.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, NoReturn, TypeVar, cast

import msgspec
from attrs import frozen

from provider.dialects.malformed import UTF8_BOM, explain, is_encoded_twice
from provider.engine.prompts import role_of
from provider.errors import InvalidRequest, MissingModel

# Of a wrong value; it may be as long as the body.
SHOWN_CHARACTERS = 100
MAX_INT32 = 2**31 - 1
_NOT_GIVEN: tuple[object, ...] = (None, "", [])

T = TypeVar("T", bound=msgspec.Struct)

Read = Callable[[Any, str, Any, dict[str, str]], None]
"""Reads a field's name and value into the body, or raises. The last argument maps our fields to the names given."""


@frozen
class ForeignField:
    """A field of another API: the JSON it may hold, and how it is read."""

    type: Any
    read: Read


class BodyReader(Generic[T]):
    """Decodes the bodies of one request class, strictly."""

    def __init__(self, own: type[T], foreign: Mapping[str, ForeignField]) -> None:
        """Decode bodies into `own`, which forbids unknown fields, and read the fields of other APIs into it."""
        self._foreign = foreign
        every = msgspec.defstruct(
            "AllFields",
            [(name, each.type, None) for name, each in foreign.items()],
            bases=(own,),
            forbid_unknown_fields=False,
        )
        # Most bodies hold our own fields only, and decode fastest without the others.
        self._own, self._all = msgspec.json.Decoder(own), msgspec.json.Decoder(cast("type[T]", every))

    def read(self, body: bytes) -> T:
        """The fields of `body`.

        Raises:
            MalformedJSON: it is no JSON document.
            InvalidRequest: a field has a wrong type, or asks for what is not served, or contradicts another.
        """
        try:
            return self._own.decode(body)
        except msgspec.ValidationError:
            return self._read_all(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            # RFC 8259 lets a parser ignore the mark, and Windows' tools write it.
            if body.startswith(UTF8_BOM):
                return self._read_all(body.removeprefix(UTF8_BOM))
            explain(body, exc)

    def _read_all(self, body: bytes) -> T:
        """Decode again, with all fields: one is not ours or of another type, or a byte order mark was cut off."""
        try:
            fields = self._all.decode(body)
        except msgspec.ValidationError as exc:
            _raise_invalid(exc, body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            explain(body, exc)
        given_as: dict[str, str] = {}
        for name, field in self._foreign.items():
            value = getattr(fields, name)
            if value not in _NOT_GIVEN:
                field.read(fields, name, value, given_as)
        return fields


def alias_of(
    own: str, *, turned: Callable[[Any], Any] | None = None, same: Callable[[Any], object] | None = None
) -> Read:
    """Reads a field as another name of our field `own`.

    Args:
        own: the field.
        turned: makes one of our values of the field's.
        same: what two values are compared by, where both fields are there.
    """
    meaning = same or _MEANINGS.get(own)

    def read(body: object, name: str, value: object, given_as: dict[str, str]) -> None:
        value = value if turned is None else turned(value)
        present = getattr(body, own)
        if present is None:
            setattr(body, own, value)
            given_as[own] = name
        elif present != value and (meaning is None or meaning(present) != meaning(value)):
            raise contradiction(name, value, given_as.get(own, own), present)

    return read


def only(*served: object, instead: str) -> Read:
    """Accepts the values `served`, which change nothing, and refuses all others; `instead` says what to do."""

    def read(_body: object, name: str, value: object, _given_as: dict[str, str]) -> None:
        for each in value if isinstance(value, list) else [value]:
            if (each.lower() if isinstance(each, str) else each) not in served:
                raise refusal(name, each, served, instead)

    return read


def model_of(given: str | None, *, is_needed: bool) -> str:
    """The model's name; empty where none was named.

    Raises:
        MissingModel: none was, and `is_needed`.
    """
    if not given and is_needed:
        msg = "you must provide a model parameter"
        raise MissingModel(msg)
    return given or ""


def whole(value: float, param: str, *, least: int, instead: str) -> int:
    """A whole number, which JSON may write as 128.0.

    Raises:
        InvalidRequest: it is a fraction, too large, or below `least`; `instead` says what to do.
    """
    if isinstance(value, float) and not value.is_integer():
        msg = f"Invalid type for '{param}': expected an integer, but got a number instead."
        raise InvalidRequest(msg, param=param, code="invalid_type")
    if abs(value) > MAX_INT32:
        msg = f"Invalid '{param}': the number is too large. {instead}"
        raise InvalidRequest(msg, param=param, code="invalid_value")
    if value < least:
        msg = f"Invalid '{param}' = {int(value)}. Must be greater than or equal to {least}. {instead}"
        raise InvalidRequest(msg, param=param, code="invalid_value")
    return int(value)


def shown(value: object) -> str:
    """As OpenAI's messages have it: strings in single quotes, the rest as JSON."""
    return (repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode())[:SHOWN_CHARACTERS]


def refusal(name: str, value: object, served: tuple[object, ...], instead: str) -> InvalidRequest:
    """The error for a value, or for any value at all, that cannot be served."""
    if not served:
        msg = f"Unsupported parameter: '{name}'. {instead}"
        return InvalidRequest(msg, param=name, code="unsupported_parameter")
    *most, last = map(shown, served)
    values = f"{', '.join(most)} and {last}" if most else last
    msg = f"Invalid value for '{name}': {shown(value)}. Supported: {values}. {instead}".rstrip()
    return InvalidRequest(msg, param=name, code="invalid_value")


def contradiction(name: str, value: object, other: str, present: object) -> InvalidRequest:
    """The error for two fields that ask for different things."""
    msg = f"'{name}' ({shown(value)}) contradicts '{other}' ({shown(present)}). Send one of them."
    return InvalidRequest(msg, param=name, code="invalid_value")


# By what values of our fields are compared, where equal things have several names.
_MEANINGS: Mapping[str, Callable[[Any], object]] = {"input_type": role_of}

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
