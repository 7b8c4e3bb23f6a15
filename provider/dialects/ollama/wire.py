"""Ollama's JSON to an `EmbedRequest`, and back. Long texts are cut, unless the request says otherwise."""

from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from provider.dialects.fields import BodyReader, ForeignField, model_of, only, refusal, whole
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import not_empty, texts_of
from provider.domain import Embedded, EmbedRequest
from provider.errors import InvalidRequest


class EmbedFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /api/embed`."""

    model: str | None = None
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | float | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class PromptFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /api/embeddings`, Ollama's former route."""

    model: str | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class ModelFields(msgspec.Struct):
    """The fields of routes about one model; `name` is the former name of `model`."""

    model: str | None = None
    name: str | None = None


class OllamaCall(NamedTuple):
    """A request.

    Attributes:
        request: what to embed; without inputs, nothing: clients load models so.
        is_prompt: whether it is one `prompt`, of the former route.
    """

    request: EmbedRequest
    is_prompt: bool = False

    @property
    def names(self) -> FieldNames:
        """Of its fields."""
        return _PROMPT_NAMES if self.is_prompt else _NAMES


class Times(NamedTuple):
    """Of a request, in nanoseconds: since it came, and the part of it in which the model was loaded."""

    total_ns: int
    load_ns: int


def _not_for(own: str, instead: str) -> ForeignField:
    """The other route's field for texts; without `own`, the answer would be no vector and no error."""

    def read(body: object, name: str, value: object, _given_as: dict[str, str]) -> None:
        if not getattr(body, own):
            raise refusal(name, value, (), instead)

    return ForeignField(Any, read)


_OPTIONS = {"max_tokens": "options.num_ctx"}
_NAMES, _PROMPT_NAMES = FieldNames(options=_OPTIONS), FieldNames("prompt", options=_OPTIONS)
_FOREIGN = {
    name: ForeignField(Any, only(instead="Only text is embedded.")) for name in ("images", "image", "audio", "video")
}
_embed_reader = BodyReader(EmbedFields, _FOREIGN | {"prompt": _not_for("input", 'Send texts as "input".')})
_prompt_reader = BodyReader(PromptFields, _FOREIGN | {"input": _not_for("prompt", 'Send the text as "prompt".')})
_model_reader = BodyReader(ModelFields, {})


def parse(body: bytes, *, max_inputs: int, needs_model: bool = True) -> OllamaCall:
    """Read the body of `POST /api/embed`.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model, and `needs_model`.
        InvalidRequest: a field has a wrong type or value.
    """
    fields = _embed_reader.read(body)
    given = fields.input or []
    texts = [given] if isinstance(given, str) else given
    inputs = texts_of(texts, "input", max_inputs) if texts else ()
    return OllamaCall(
        EmbedRequest(
            model=model_of(fields.model, is_needed=needs_model),
            inputs=tuple(not_empty(each, f"input[{i}]") for i, each in enumerate(inputs)),
            truncate="none" if fields.truncate is False else "auto",
            max_tokens=_context_length(fields.options),
            dimensions=None
            if fields.dimensions is None
            else whole(fields.dimensions, "dimensions", least=1, instead="Leave it out for all dimensions."),
        )
    )


def parse_prompt(body: bytes, *, max_inputs: int, needs_model: bool = True) -> OllamaCall:  # noqa: ARG001 - it has one
    """Read the body of `POST /api/embeddings`; raises as `parse`."""
    fields = _prompt_reader.read(body)
    inputs = (fields.prompt,) if fields.prompt else ()
    model = model_of(fields.model, is_needed=needs_model)
    limit = _context_length(fields.options)
    return OllamaCall(EmbedRequest(model, inputs, truncate="auto", max_tokens=limit), is_prompt=True)


def parse_name(body: bytes, *, max_inputs: int, needs_model: bool = True) -> str:  # noqa: ARG001 - no texts
    """Read the body of a route about one model; raises as `parse`."""
    fields = _model_reader.read(body)
    return model_of(fields.model or fields.name, is_needed=True)


def write(call: OllamaCall, embedded: Embedded | None, *, model: str, times: Times) -> bytes:
    """The response body.

    Args:
        call: what was asked for.
        embedded: None where there was nothing to embed.
        model: as the client called it.
        times: of the request.
    """
    vectors = None if embedded is None else np.ascontiguousarray(embedded.vectors)
    if call.is_prompt:
        body: dict[str, Any] = {"embedding": [] if vectors is None else vectors[0]}
    else:
        body = {
            "model": model,
            "embeddings": [] if vectors is None else vectors,
            "total_duration": times.total_ns,
            "load_duration": times.load_ns,
            "prompt_eval_count": 0 if embedded is None else embedded.usage.tokens,
        }
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def _context_length(options: dict[str, Any] | None) -> int | None:
    """Of all options only `num_ctx` means something to a model that embeds."""
    given = (options or {}).get("num_ctx")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        msg = "Invalid type for 'options.num_ctx': expected an integer."
        raise InvalidRequest(msg, param="options.num_ctx", code="invalid_type")
    return whole(given, "options.num_ctx", least=1, instead="Leave it out for the model's own limit.")
