"""TEI's request bodies to requests of the engine. A field `model` is read too, for servers of several models."""

from collections.abc import Mapping
from typing import Any, cast

import msgspec
import numpy as np
from attrs import frozen

from provider.dialects.fields import BodyReader, ForeignField, alias_of, contradiction, only, refusal
from provider.dialects.foreign import COMMON
from provider.dialects.inputs import Inputs, dimensions_of, inputs_of
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import SHARED, missing, not_empty
from provider.dialects.truncation import Cut
from provider.domain import DENSE, EmbedRequest, Ids, ScoreRequest
from provider.errors import InvalidRequest

EMPTY = "empty_batch"
"""The code of an error for a request without inputs."""


class _Fields(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    user: Any = None


class _CutFields(_Fields):
    truncate: bool | str | None = None
    truncation_direction: str | None = None
    max_tokens: int | float | None = None


class EmbedFields(_CutFields):
    """The fields of `POST /embed`, `/embed_sparse`, `/embed_all` and `/similarity`."""

    inputs: Inputs | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | float | None = None


class PredictFields(_CutFields):
    """The fields of `POST /predict`."""

    inputs: str | list[str | list[str]] | None = None
    raw_scores: bool | None = None
    instruction: str | None = None


class TokenizeFields(_Fields):
    """The fields of `POST /tokenize`."""

    inputs: str | list[str] | None = None
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class DecodeFields(_Fields):
    """The fields of `POST /decode`."""

    ids: list[int | list[int]] | None = None
    skip_special_tokens: bool | None = None


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """Fields that clients of Hugging Face's API, and those of `/similarity`, put into `parameters`."""

    truncate: bool | str | None = None
    truncation_direction: str | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | float | None = None


def _parameters(body: object, name: str, value: Parameters, _given_as: dict[str, str]) -> None:
    for key in Parameters.__struct_fields__:
        nested, each = f"{name}.{key}", getattr(value, key)
        if each is None:
            continue
        if not hasattr(body, key):
            raise refusal(nested, each, (), "It has no effect here.")
        if getattr(body, key) not in (None, each):
            raise contradiction(nested, each, key, getattr(body, key))
        setattr(body, key, each)


def _options(_body: object, name: str, value: dict[str, Any], _given_as: dict[str, str]) -> None:
    """As Hugging Face's API has them: when a hosted model answers and from what, which changes no answer here."""
    for key, each in value.items():
        if key not in _OF_HOSTING:
            nested = f"{name}.{key}"
            raise refusal(nested, each, (), 'Put it into the body itself, beside "inputs".')


_OF_HOSTING = {"wait_for_model", "use_cache", "use_gpu", "dont_load_model"}
_OWN = {"truncation_direction", "add_special_tokens"}
_SIDE = {"truncation_side": ForeignField(str | None, alias_of("truncation_direction"))}
_NESTED = {
    "parameters": ForeignField(Parameters | None, _parameters),
    "options": ForeignField(dict[str, Any] | None, _options),
}
_ONLY_FLOAT = ForeignField(Any, only("float", "float32", instead="TEI's answers are floats: ask POST /v1/embeddings."))
_ONLY_INPUTS = {
    name: ForeignField(Any, only(instead='Send texts as "inputs".')) for name in ("input", "texts", "documents")
}
_FOREIGN = {name: each for name, each in COMMON.items() if name not in _OWN} | _SIDE | _ONLY_INPUTS | _NESTED
EMBED_FOREIGN: Mapping[str, ForeignField] = _FOREIGN | {
    **dict.fromkeys(("encoding_format", "output_dtype", "embedding_type", "dtype"), _ONLY_FLOAT),
    "prompt": ForeignField(Any, only(instead='Send "prompt_name", or ask POST /v1/embeddings.')),
    "input_type": ForeignField(Any, only(instead='Send "prompt_name", or ask POST /v1/embeddings.')),
}
_SCORED = {name: each for name, each in SHARED.items() if name not in _OWN}
_embed = BodyReader(EmbedFields, EMBED_FOREIGN)
_predict = BodyReader(PredictFields, _SCORED | _SIDE | _NESTED)
_tokenize, _decode = BodyReader(TokenizeFields, _ONLY_INPUTS), BodyReader(DecodeFields, {})

NAMES = FieldNames("inputs")
DECODE_NAMES = FieldNames("ids")
PREDICT_NAMES = FieldNames("inputs", "inputs", "inputs[{}][0]")


@frozen
class SimilarityNames(FieldNames):
    """The first input is the source, the others are the sentences."""

    def place(self, index: int | None, *, is_query: bool = False) -> str:  # noqa: ARG002 - there are no queries
        """The sentence at `index`."""
        return f"inputs.sentences[{index - 1}]" if index else "inputs.source_sentence"


@frozen
class EmbedCall:
    """A request for vectors.

    Attributes:
        request: what to embed; its model is empty where none was named, and `truncate` is yet to be resolved.
        cut: how.
        is_similarity: whether similarities of the first input to all others are wanted.
    """

    request: EmbedRequest
    cut: Cut
    is_similarity: bool = False


def parse_embed(
    body: bytes,
    *,
    max_inputs: int,
    needs_model: bool,  # noqa: ARG001 - TEI's protocol has no name for the model
    outputs: tuple[str, ...] = (DENSE,),
) -> EmbedCall:
    """Read a body with texts, token ids, or a source sentence and others.

    Raises:
        MalformedJSON: it is no JSON document.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    fields = _embed.read(body)
    is_similarity = outputs == (DENSE,) and isinstance(fields.inputs, dict) and "text" not in fields.inputs
    inputs: tuple[str, ...] | tuple[Ids, ...]
    if is_similarity:
        inputs = _sentences(cast("dict[str, Any]", fields.inputs), max_inputs)
    else:
        _check_batch(fields.inputs, "inputs")
        inputs = inputs_of(fields.inputs, "inputs", max_inputs)
    cut = Cut.of(fields)
    request = EmbedRequest(
        model=fields.model or "",
        inputs=inputs,
        max_tokens=cut.max_tokens,
        prompt_name=fields.prompt_name or None,
        dimensions=None if fields.dimensions is None else dimensions_of(fields.dimensions),
        # TEI's default, whatever the model's files say.
        normalize=(fields.normalize is not False) if outputs == (DENSE,) else fields.normalize,
        outputs=outputs,
    )
    return EmbedCall(request, cut, is_similarity)


def parse_similarity(body: bytes, *, max_inputs: int, needs_model: bool) -> EmbedCall:
    """As `parse_embed`; nothing else than a source sentence and others is read."""
    call = parse_embed(body, max_inputs=max_inputs, needs_model=needs_model)
    if not call.is_similarity:
        msg = "Invalid type for 'inputs': expected an object with `source_sentence` and `sentences`."
        raise InvalidRequest(msg, param="inputs", code="invalid_type")
    return call


def parse_predict(
    body: bytes,
    *,
    max_inputs: int,
    needs_model: bool,  # noqa: ARG001 - as above
) -> tuple[ScoreRequest, Cut, bool]:
    """What to score, how to cut it, and whether it was one input: a text, or an array that holds a text or a pair.

    Raises:
        MalformedJSON, InvalidRequest: as `parse_embed`.
    """
    fields = _predict.read(body)
    given = fields.inputs
    if given is None:
        raise missing(param="inputs")
    _check_batch(given, "inputs")
    is_one = isinstance(given, str) or not isinstance(given[0], list)
    rows = [[given] if isinstance(given, str) else given] if is_one else given
    if len(rows) > max_inputs:
        msg = f"Invalid 'inputs': array length must be {max_inputs} or less. Got {len(rows)} inputs."
        raise InvalidRequest(msg, param="inputs", code="array_above_max_length")
    sizes = {len(row) if isinstance(row, list) and all(isinstance(each, str) for each in row) else 0 for row in rows}
    if sizes not in ({1}, {2}):
        msg = (
            "Invalid 'inputs': expected a string, an array of two strings (a pair), or an array of such arrays, all "
            'texts ([["a"], ["b"]]) or all pairs.'
        )
        raise InvalidRequest(msg, param="inputs", code="invalid_type")
    texts = tuple(str(row[-1]) for row in rows)
    is_pairs, cut = sizes == {2}, Cut.of(fields)
    request = ScoreRequest(
        model=fields.model or "",
        texts=texts if is_pairs else tuple(not_empty(each, f"inputs[{i}]") for i, each in enumerate(texts)),
        queries=tuple(not_empty(str(row[0]), f"inputs[{i}][0]") for i, row in enumerate(rows)) if is_pairs else None,
        max_tokens=cut.max_tokens,
        raw=bool(fields.raw_scores),
        instruction=fields.instruction or None,
    )
    return request, cut, is_one


def parse_tokenize(
    body: bytes,
    *,
    max_inputs: int,
    needs_model: bool,  # noqa: ARG001 - as above
) -> tuple[EmbedRequest, bool]:
    """Texts with their prompt, and whether special tokens are wanted.

    Raises:
        MalformedJSON, InvalidRequest: as `parse_embed`.
    """
    fields = _tokenize.read(body)
    _check_batch(fields.inputs, "inputs")
    inputs = (fields.inputs,) if isinstance(fields.inputs, str) else tuple(fields.inputs or ())
    if fields.inputs is None:
        raise missing(param="inputs")
    if len(inputs) > max_inputs:
        msg = f"Invalid 'inputs': array length must be {max_inputs} or less. Got {len(inputs)} inputs."
        raise InvalidRequest(msg, param="inputs", code="array_above_max_length")
    request = EmbedRequest(fields.model or "", inputs, prompt_name=fields.prompt_name or None)
    return request, fields.add_special_tokens is not False


def parse_decode(
    body: bytes,
    *,
    max_inputs: int,
    needs_model: bool,  # noqa: ARG001 - as above
) -> tuple[str, tuple[Ids, ...], bool]:
    """The model's name if any, rows of token ids, and whether special tokens are left out.

    Raises:
        MalformedJSON, InvalidRequest: as `parse_embed`.
    """
    fields = _decode.read(body)
    _check_batch(fields.ids, "ids")
    rows = inputs_of(cast("Inputs | None", fields.ids), "ids", max_inputs)
    return fields.model or "", tuple(np.asarray(row, np.int32) for row in rows), fields.skip_special_tokens is not False


def _sentences(given: dict[str, Any], max_inputs: int) -> tuple[str, ...]:
    source, sentences = given.get("source_sentence"), given.get("sentences")
    if not isinstance(source, str):
        msg = "Invalid 'inputs': expected texts, or an object with `source_sentence` (a string) and `sentences`."
        raise InvalidRequest(msg, param="inputs.source_sentence", code="invalid_type")
    if not isinstance(sentences, list) or not all(isinstance(each, str) for each in sentences):
        msg = "Invalid type for 'inputs.sentences': expected an array of strings."
        raise InvalidRequest(msg, param="inputs.sentences", code="invalid_type")
    _check_batch(sentences, "inputs.sentences")
    texts = inputs_of(sentences, "inputs.sentences", max_inputs - 1)
    return (not_empty(source, "inputs.source_sentence"), *(str(each) for each in texts))


def _check_batch(given: object, param: str) -> None:
    if given == []:
        msg = f"Invalid '{param}': the array is empty. Send at least one input."
        raise InvalidRequest(msg, param=param, code=EMPTY)
