"""What requests and answers for scores look like, for the OpenAPI document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from provider.dialects.fields import MAX_INT32
from provider.dialects.openai.error_examples import ERRORS
from provider.dialects.openai.schemas import (
    ANSWER_HEADERS,
    MAX_TOKENS,
    MODEL,
    SOME_TEXT,
    TRUNCATE,
    TRUNCATED,
    USAGE,
    USER,
    list_of,
    optional,
    text,
)
from provider.dialects.scores.rerank import FOREIGN
from provider.dialects.scores.vllm import CLASSIFY_FOREIGN, SCORE_FOREIGN

_TEXT = Schema(type=OpenAPIType.STRING)
PAIR = Schema(type=OpenAPIType.ARRAY, prefix_items=[SOME_TEXT, _TEXT], items=_TEXT, min_items=2, max_items=2)
"""Two texts, of which the second may be empty."""


def _text_or_object(text_itself: Schema) -> list[Schema]:
    return [text_itself, Schema(type=OpenAPIType.OBJECT, required=["text"], properties={"text": text_itself})]


_INTEGER, _NUMBER = Schema(type=OpenAPIType.INTEGER), Schema(type=OpenAPIType.NUMBER)
_RAW = Schema(
    type=OpenAPIType.BOOLEAN,
    description="Logits, instead of scores that are activated as the model's files say. Default: false.",
)
_INSTRUCTION = text("For models whose template has a place for one. Default: the model's own.")


def _text_or_texts(description: str, text_itself: Schema) -> Schema:
    either = _text_or_object(text_itself)
    return Schema(description=description, one_of=[*either, list_of(Schema(one_of=[*either]), min_items=1)])


_COMMON = {
    "model": MODEL,
    "truncate": optional(TRUNCATE),
    "max_tokens": optional(MAX_TOKENS),
    "raw_scores": optional(_RAW),
    "instruction": optional(_INSTRUCTION),
    "user": USER,
}


def _request(
    title: str,
    required: list[str],
    properties: Mapping[str, Schema],
    foreign: Mapping[str, Any],
    either: Sequence[Schema] | None = None,
) -> Schema:
    return Schema(
        type=OpenAPIType.OBJECT,
        title=title,
        description="Every optional field may be null. Fields of other APIs are read as these or refused: "
        f"{', '.join(f'`{name}`' for name in foreign)}. Further fields are ignored.",
        required=required,
        one_of=either,
        properties={**properties, **_COMMON},
    )


def _documents(description: str) -> Schema:
    return list_of(Schema(one_of=[*_text_or_object(_TEXT)]), description, min_items=1)


_RESULT = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "index": Schema(type=OpenAPIType.INTEGER, description="The document's place in the request."),
        "relevance_score": _NUMBER,
        "document": Schema(type=OpenAPIType.OBJECT, description="With `return_documents` only: `text`."),
    },
)
RERANK_REQUEST = _request(
    "RerankRequest",
    ["query"],
    {
        "query": Schema(one_of=[*_text_or_object(SOME_TEXT)]),
        "documents": optional(_documents("Up to 2,048. Of an object, `text` is scored.")),
        "texts": optional(
            _documents("TEI's name for `documents`. Such a body needs no model, and is answered with TEI's bare list.")
        ),
        "top_n": optional(
            Schema(
                type=OpenAPIType.INTEGER,
                minimum=0,
                maximum=MAX_INT32,
                description="The best so many. Default, and 0: all.",
            )
        ),
        "return_documents": optional(
            Schema(type=OpenAPIType.BOOLEAN, description="Whether results hold their document. Default: false.")
        ),
        "max_tokens_per_doc": optional(
            Schema(
                type=OpenAPIType.INTEGER,
                minimum=1,
                maximum=MAX_INT32,
                description="Cut every document to so many tokens first.",
            )
        ),
        "truncation_direction": optional(
            text("Which end is cut off, where a document is too long and cut at all.", enum=["Left", "Right"])
        ),
    },
    FOREIGN,
    either=[
        Schema(required=["documents", "model"], properties={"documents": Schema(type=OpenAPIType.ARRAY)}),
        Schema(required=["texts"], properties={"texts": Schema(type=OpenAPIType.ARRAY)}),
    ],
)
RERANK_ANSWER = Schema(
    type=OpenAPIType.OBJECT,
    title="RerankResponse",
    properties={
        "id": text("The request's id in the log."),
        "object": text("Always `list`."),
        "model": text("The model as the request named it."),
        "results": list_of(_RESULT, "The best first."),
        "data": list_of(_RESULT, "The same as `results`, for Voyage's clients."),
        "usage": USAGE,
        "meta": Schema(type=OpenAPIType.OBJECT, description="As Cohere's clients read it."),
        "truncated": TRUNCATED,
    },
)
RERANK_EXAMPLE = {
    "model": "reranker",
    "query": "Where do cats sit?",
    "documents": ["On mats.", "In 1998."],
    "top_n": 1,
}
_SCORE_REQUEST = _request(
    "ScoreRequest",
    ["text_1", "text_2", "model"],
    {
        "text_1": _text_or_texts("One text for all of `text_2`, or as many as there are in it.", SOME_TEXT),
        "text_2": _text_or_texts("One text or several.", _TEXT),
    },
    SCORE_FOREIGN,
)
CLASSIFY_REQUEST = _request(
    "ClassifyRequest",
    ["input", "model"],
    {
        "input": Schema(
            description="One text or several, or pairs: arrays of two strings.",
            one_of=[
                *_text_or_object(SOME_TEXT),
                list_of(Schema(one_of=[*_text_or_object(SOME_TEXT)]), min_items=1),
                list_of(PAIR, min_items=1),
            ],
        )
    },
    CLASSIFY_FOREIGN,
)


def _listed(title: str, entry: Mapping[str, Schema]) -> Schema:
    return Schema(
        type=OpenAPIType.OBJECT,
        title=title,
        properties={
            "id": text("The request's id in the log, with a prefix."),
            "object": text("Always `list`."),
            "created": _INTEGER,
            "model": text("The model as the request named it."),
            "data": list_of(Schema(type=OpenAPIType.OBJECT, properties=dict(entry)), "In the order of the request."),
            "usage": USAGE,
            "truncated": TRUNCATED,
        },
    )


_SCORE_ANSWER = _listed("ScoreResponse", {"index": _INTEGER, "object": text("Always `score`."), "score": _NUMBER})
_CLASSIFY_ANSWER = _listed(
    "ClassifyResponse",
    {
        "index": _INTEGER,
        "label": text("The label with the highest score."),
        "probs": list_of(_NUMBER, "A score for each of the model's labels, in the order of `GET /v1/models`."),
        "num_classes": _INTEGER,
    },
)


def _describe(operation: Operation, request: Schema, answer: Schema, description: str, example: object) -> None:
    media = OpenAPIMediaType(schema=request, examples={"example": Example(value=example)})
    operation.request_body = RequestBody(required=True, content={"application/json": media})
    response = OpenAPIResponse(
        description=description,
        headers=ANSWER_HEADERS,
        content={"application/json": OpenAPIMediaType(schema=answer)},
    )
    operation.responses = {"200": response, **ERRORS}


@dataclass
class ScoreOperation(Operation):
    """The handler reads the raw body, so its description is written here."""

    def __post_init__(self) -> None:
        """Put request and responses in."""
        example = {"model": "reranker", "text_1": "Where do cats sit?", "text_2": ["On mats.", "In 1998."]}
        _describe(self, _SCORE_REQUEST, _SCORE_ANSWER, "A score for each pair.", example)


@dataclass
class ClassifyOperation(Operation):
    """As `ScoreOperation`."""

    def __post_init__(self) -> None:
        """Put request and responses in."""
        _describe(
            self, CLASSIFY_REQUEST, _CLASSIFY_ANSWER, "Scores of labels.", {"model": "classifier", "input": ["Great!"]}
        )
