"""Fields of other embedding APIs that would change the answer: each is read as one of ours, or refused.

A field that is listed here is never ignored. Fields that change no vector (`user`, `priority`, `request_id`,
`cache_salt` …) are not listed, and are ignored. Names and values are those of Cohere, DeepInfra, Fireworks,
FlagEmbedding, Gemini, Jina, llama.cpp, Mixedbread, Nomic, NVIDIA NIM, sentence-transformers, Superlinked, TEI, vLLM and
Voyage.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from attrs import frozen

from provider.domain import Truncation
from provider.engine.prompts import role_of
from provider.errors import InvalidRequest

_YES, _NO = True, False
# Of a wrong value; it may be as long as the body.
_SHOWN_CHARACTERS = 100
_TRUNCATIONS: dict[object, Truncation] = {False: "none", True: "end", "none": "none", "start": "start", "end": "end"}


class OwnFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v1/embeddings` under their own names. Most bodies hold nothing else, and decode fastest."""

    # msgspec takes no union of several array types; `wire` refuses the mixtures that this one lets through.
    input: str | dict[str, Any] | list[str | int | list[int] | dict[str, Any]] | None = None
    model: str | None = None
    encoding_format: str | None = None
    dimensions: int | float | None = None
    truncate: bool | str | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    prompt: str | None = None
    normalize: bool | None = None
    user: Any = None


Read = Callable[[OwnFields, str, Any, dict[str, str]], None]
"""Reads a field's name and value into the body, or raises. The last argument maps our fields to the names given."""


@frozen
class ForeignField:
    """A field of another API: the JSON it may hold, and how it is read."""

    type: Any
    read: Read


def alias_of(own: str) -> Read:
    """Reads a field as another name of our field `own`."""

    def read(body: OwnFields, name: str, value: object, given_as: dict[str, str]) -> None:
        present = getattr(body, own)
        if present is None:
            setattr(body, own, value)
            given_as[own] = name
        elif _meaning(own, present) != _meaning(own, value):
            raise _contradiction(name, value, given_as.get(own, own), present)

    return read


def only(*served: object, instead: str) -> Read:
    """Accepts the values `served`, which change nothing, and refuses all others; `instead` says what to do."""

    def read(_body: OwnFields, name: str, value: object, _given_as: dict[str, str]) -> None:
        for each in value if isinstance(value, list) else [value]:
            if (each.lower() if isinstance(each, str) else each) not in served:
                raise _refusal(name, each, served, instead)

    return read


def _element_type(body: OwnFields, name: str, value: str | list[str], given_as: dict[str, str]) -> None:
    """As Jina, Cohere and NIM have it: `float` says what the numbers are, `base64` how they are written as well."""
    kinds = [value] if isinstance(value, str) else value
    wrong = next((kind for kind in kinds if kind.lower() not in {"float", "base64"}), None)
    if wrong is not None or len(kinds) > 1:
        shown = value if wrong is None else wrong
        raise _refusal(name, shown, ("float", "base64"), f"Send one of them, and quantise the vectors {_YOURSELF}.")
    if kinds[0].lower() == "base64":
        alias_of("encoding_format")(body, name, "base64", given_as)


def _token_limit(body: OwnFields, name: str, value: int, given_as: dict[str, str]) -> None:
    """As vLLM has it: -1 cuts to the model's maximum, a positive number to as many tokens."""
    if value != -1:
        raise _refusal(name, value, (-1,), f"-1 cuts inputs to the model's maximum. {_LENGTH_IS_CONFIGURED}")
    alias_of("truncate")(body, name, _YES, given_as)


def _side(body: OwnFields, name: str, value: str, given_as: dict[str, str]) -> None:
    """As vLLM and TEI have it: which end is cut off, where truncation is asked for by another field."""
    sides = {"left": "start", "right": "end"}
    if value.lower() not in sides:
        raise _refusal(name, value, tuple(sides), "")
    side = sides[value.lower()]
    if body.truncate is None:
        msg = f"Invalid '{name}': it says which end is cut off, not whether. Send \"truncate\": true as well."
        raise InvalidRequest(msg, param=name, code="invalid_value")
    if body.truncate is True:
        body.truncate = side
    elif truncation(body.truncate) not in {side, "none"}:
        raise _contradiction(name, value, given_as.get("truncate", "truncate"), body.truncate)


_YOURSELF = "on your side"
_FLOAT32 = f"Vectors are float32: leave the field out, and quantise them {_YOURSELF}."
_LENGTH_IS_CONFIGURED = "Another length is the operator's to set (`max_context_length`)."
_CUT_AT_MAXIMUM = f'Send "truncate": true to cut inputs at their maximum. {_LENGTH_IS_CONFIGURED}'
_AS_PROMPT = 'Send the whole text that goes before each input, as the model\'s card has it, as "prompt".'
_ONLY_INPUT = "Texts are read from `input` only: a string or a list of strings."
_SINGLE_DENSE = "A model gives one dense vector for each input."

_Text = str | None
_Texts = str | list[str] | None
_Flag = bool | None
_Whole = int | float | None

FOREIGN: Mapping[str, ForeignField] = {
    "output_dimension": ForeignField(_Whole, alias_of("dimensions")),
    "output_dimensionality": ForeignField(_Whole, alias_of("dimensions")),
    "dimensionality": ForeignField(_Whole, alias_of("dimensions")),
    "truncate_dim": ForeignField(_Whole, alias_of("dimensions")),
    "truncation": ForeignField(bool | str | None, alias_of("truncate")),
    "truncation_strategy": ForeignField(bool | str | None, alias_of("truncate")),
    "truncate_prompt_tokens": ForeignField(int | None, _token_limit),
    # After the fields that ask for truncation: see `_side`.
    "truncation_side": ForeignField(_Text, _side),
    "truncation_direction": ForeignField(_Text, _side),
    "task": ForeignField(_Text, alias_of("input_type")),
    "task_type": ForeignField(_Text, alias_of("input_type")),
    "prefix": ForeignField(_Text, alias_of("prompt")),
    "normalized": ForeignField(_Flag, alias_of("normalize")),
    "normalize_embeddings": ForeignField(_Flag, alias_of("normalize")),
    # vLLM's name for it: an embedding's activation is its normalisation.
    "use_activation": ForeignField(_Flag, alias_of("normalize")),
    # llama.cpp's: 2 is the Euclidean length.
    "embd_normalize": ForeignField(int | None, only(2, instead='For vectors as they are, send "normalize": false.')),
    "embedding_type": ForeignField(_Texts, _element_type),
    "embedding_types": ForeignField(_Texts, _element_type),
    "output_dtype": ForeignField(_Text, only("float", "float32", instead=_FLOAT32)),
    "embed_dtype": ForeignField(_Text, only("float32", "float", instead=_FLOAT32)),
    "precision": ForeignField(_Text, only("float32", instead=_FLOAT32)),
    "endianness": ForeignField(_Text, only("little", "native", instead="base64 is little-endian float32.")),
    "output_types": ForeignField(_Texts, only("dense", instead=_SINGLE_DENSE)),
    "return_dense": ForeignField(_Flag, only(_YES, instead=_SINGLE_DENSE)),
    "return_sparse": ForeignField(_Flag, only(_NO, instead=_SINGLE_DENSE)),
    "return_multivector": ForeignField(_Flag, only(_NO, instead=_SINGLE_DENSE)),
    "return_colbert_vecs": ForeignField(_Flag, only(_NO, instead=_SINGLE_DENSE)),
    "late_chunking": ForeignField(
        _Flag, only(_NO, instead="Every input is embedded by itself: put the context into the text.")
    ),
    "add_special_tokens": ForeignField(_Flag, only(_YES, instead="The model needs its special tokens.")),
    "pooling": ForeignField(Any, only(instead="The model's files decide its pooling; `GET /v1/models` shows it.")),
    "instruction": ForeignField(Any, only(instead=_AS_PROMPT)),
    "custom_instruction": ForeignField(Any, only(instead=_AS_PROMPT)),
    "prompt_template": ForeignField(Any, only(instead=_AS_PROMPT)),
    "max_tokens": ForeignField(Any, only(instead=_CUT_AT_MAXIMUM)),
    "max_length": ForeignField(Any, only(instead=_CUT_AT_MAXIMUM)),
    "modality": ForeignField(_Texts, only("text", instead="Only text is embedded.")),
    "messages": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "inputs": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "texts": ForeignField(Any, only(instead=_ONLY_INPUT)),
    "images": ForeignField(Any, only(instead=f"Only text is embedded. {_ONLY_INPUT}")),
}

AllFields = cast(
    "type[OwnFields]",
    msgspec.defstruct(
        "AllFields",
        [(name, each.type, None) for name, each in FOREIGN.items()],
        bases=(OwnFields,),
        forbid_unknown_fields=False,
    ),
)
"""Our fields and all of `FOREIGN`; other fields are ignored."""

_NOT_GIVEN: tuple[object, ...] = (None, "", [])


def read_foreign(body: OwnFields) -> None:
    """Read the foreign fields of `body`, an `AllFields`, into our own.

    Raises:
        InvalidRequest: one of them asks for what is not served, or contradicts another.
    """
    given_as: dict[str, str] = {}
    for name, field in FOREIGN.items():
        value = getattr(body, name)
        if value not in _NOT_GIVEN:
            field.read(body, name, value, given_as)


def truncation(value: str | bool | None) -> Truncation | None:  # noqa: FBT001 - a value of the wire
    """What a value of `truncate` means; None where nothing was said.

    Raises:
        InvalidRequest: it is none of those.
    """
    if value is None or value == "":
        return None
    found = _TRUNCATIONS.get(value.lower() if isinstance(value, str) else value)
    if found is None:
        msg = f"Invalid value: {_shown(value)}. Supported values are: true, false, 'NONE', 'START' and 'END'."
        raise InvalidRequest(msg, param="truncate", code="invalid_value")
    return found


def _meaning(own: str, value: Any) -> object:  # noqa: ANN401 - as the field
    """What a value of our field `own` means, to compare two of them."""
    if own == "truncate":
        return truncation(value)
    return role_of(value) if own == "input_type" else value


def _shown(value: object) -> str:
    """As OpenAI's messages have it: strings in single quotes, the rest as JSON."""
    return (repr(value) if isinstance(value, str) else msgspec.json.encode(value).decode())[:_SHOWN_CHARACTERS]


def _refusal(name: str, value: object, served: tuple[object, ...], instead: str) -> InvalidRequest:
    if not served:
        msg = f"Unsupported parameter: '{name}'. {instead}"
        return InvalidRequest(msg, param=name, code="unsupported_parameter")
    values = " and ".join(map(_shown, served))
    msg = f"Invalid value for '{name}': {_shown(value)}. Supported: {values}. {instead}".rstrip()
    return InvalidRequest(msg, param=name, code="invalid_value")


def _contradiction(name: str, value: object, other: str, present: object) -> InvalidRequest:
    msg = f"'{name}' ({_shown(value)}) contradicts '{other}' ({_shown(present)}). Send one of them."
    return InvalidRequest(msg, param=name, code="invalid_value")
