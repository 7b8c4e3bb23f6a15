"""vLLM's score (a number for each pair, in the order of the request) and classify (the probability of each label)."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import orjson

from provider.dialects.fields import BodyReader, ForeignField, alias_of, model_of, only
from provider.dialects.phrases import FieldNames
from provider.dialects.scores.common import SHARED, cuts, missing, not_empty, texts_of, usage
from provider.dialects.truncation import limit_of
from provider.domain import Scored, ScoreRequest
from provider.errors import InvalidRequest

Side = str | dict[str, Any] | list[str | dict[str, Any]]
Inputs = str | dict[str, Any] | list[str | dict[str, Any] | list[str]]


class ScoreFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v1/score` under their own names."""

    text_1: Side | None = None
    text_2: Side | None = None
    model: str | None = None
    truncate: bool | str | None = None
    max_tokens: int | float | None = None
    raw_scores: bool | None = None
    instruction: str | None = None
    user: Any = None


class ClassifyFields(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `POST /v1/classify` under their own names."""

    input: Inputs | None = None
    model: str | None = None
    truncate: bool | str | None = None
    max_tokens: int | float | None = None
    raw_scores: bool | None = None
    instruction: str | None = None
    user: Any = None


_IN_ORDER = "The scores of all pairs are answered, in their order: POST /v1/rerank sorts and cuts."
_ALL_LABELS = "The scores of all of the model's own labels are answered; GET /v1/models lists them."

SCORE_FOREIGN: Mapping[str, ForeignField] = {
    **SHARED,
    **{name: ForeignField(Any, only(0, -1, instead=_IN_ORDER)) for name in ("top_n", "top_k")},
    "return_documents": ForeignField(bool | None, only(False, instead=_IN_ORDER)),  # noqa: FBT003
    **{name: ForeignField(Side | None, alias_of("text_1")) for name in ("queries", "query", "data_1")},
    **{name: ForeignField(Side | None, alias_of("text_2")) for name in ("documents", "items", "data_2")},
}
CLASSIFY_FOREIGN: Mapping[str, ForeignField] = {
    **SHARED,
    "inputs": ForeignField(Inputs | None, alias_of("input")),
    **{
        name: ForeignField(Any, only(instead=_ALL_LABELS))
        for name in ("labels", "candidate_labels", "multi_label", "hypothesis_template", "top_n", "top_k")
    },
}

SCORE_NAMES = FieldNames("text_2", "text_1", "text_1[{}]")
CLASSIFY_NAMES = FieldNames("input", "input", "input[{}][0]")

_score_reader, _classify_reader = BodyReader(ScoreFields, SCORE_FOREIGN), BodyReader(ClassifyFields, CLASSIFY_FOREIGN)


def parse_score(body: bytes, *, max_inputs: int, needs_model: bool = True) -> ScoreRequest:
    """Read the body of `POST /v1/score`: one text with each of several, or as many pairs as there are texts.

    Raises:
        MalformedJSON: it is no JSON document.
        MissingModel: it names no model, and `needs_model`.
        InvalidRequest: a field has a wrong type or value; the message says what was got and what is allowed.
    """
    fields = _score_reader.read(body)
    model = model_of(fields.model, is_needed=needs_model)
    first, second = fields.text_1, fields.text_2
    if first is None or second is None:
        raise missing(param="text_1" if first is None else "text_2")
    queries = texts_of(first if isinstance(first, list) else [first], "text_1", max_inputs)
    texts = texts_of(second if isinstance(second, list) else [second], "text_2", max_inputs)
    if len(queries) not in {1, len(texts)}:
        msg = (
            f"Invalid 'text_1': {len(queries)} texts do not pair with the {len(texts)} of 'text_2'. "
            "Send one, or as many as there are in 'text_2'."
        )
        raise InvalidRequest(msg, param="text_1", code="invalid_value")
    return _request(fields, model, texts, tuple(not_empty(each, f"text_1[{i}]") for i, each in enumerate(queries)))


def parse_classify(body: bytes, *, max_inputs: int, needs_model: bool = True) -> ScoreRequest:
    """Read the body of `POST /v1/classify`: texts, or (as TEI has them) lists of two texts, which are pairs.

    Raises: as `parse_score`.
    """
    fields = _classify_reader.read(body)
    model = model_of(fields.model, is_needed=needs_model)
    if fields.input is None:
        raise missing(param="input")
    given = fields.input if isinstance(fields.input, list) else [fields.input]
    pairs = [each for each in given if isinstance(each, list)]
    if not pairs:
        texts = texts_of([each for each in given if not isinstance(each, list)], "input", max_inputs)
        return _request(fields, model, tuple(not_empty(each, f"input[{i}]") for i, each in enumerate(texts)), None)
    wrong = next((i for i, each in enumerate(given) if not isinstance(each, list) or len(each) != 2), None)
    if wrong is not None:
        msg = f"Invalid 'input[{wrong}]': texts are mixed with pairs. Send strings, or arrays of two strings each."
        raise InvalidRequest(msg, param=f"input[{wrong}]", code="invalid_type")
    seconds = texts_of([second for _, second in pairs], "input", max_inputs)
    return _request(fields, model, seconds, tuple(not_empty(pair[0], f"input[{i}][0]") for i, pair in enumerate(pairs)))


def write_scores(scored: Scored, *, model: str, request_id: str) -> bytes:
    """The response body of `POST /v1/score`."""
    data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scored.scores[:, 0])]
    return _body(scored, data, model, f"score-{request_id}")


def write_classes(scored: Scored, *, model: str, request_id: str) -> bytes:
    """The response body of `POST /v1/classify`: `probs` in the order of the model's labels."""
    best = np.argmax(scored.scores, axis=1)
    data = [
        {
            "index": i,
            "label": scored.labels[int(best[i])],
            "probs": row,
            "num_classes": len(scored.labels),
        }
        for i, row in enumerate(np.ascontiguousarray(scored.scores))
    ]
    return _body(scored, data, model, f"classify-{request_id}")


def _request(
    fields: ScoreFields | ClassifyFields, model: str, texts: tuple[str, ...], queries: tuple[str, ...] | None
) -> ScoreRequest:
    truncate, max_tokens = limit_of(fields.truncate, fields.max_tokens)
    return ScoreRequest(
        model=model,
        texts=texts,
        queries=queries,
        truncate=truncate,
        max_tokens=max_tokens,
        raw=bool(fields.raw_scores),
        instruction=fields.instruction or None,
    )


def _body(scored: Scored, data: list[dict[str, Any]], model: str, answer_id: str) -> bytes:
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage(scored),
    }
    if scored.truncated:
        body["truncated"] = cuts(scored.truncated)
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
