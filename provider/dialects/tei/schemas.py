"""What TEI's requests and answers look like, for the OpenAPI document."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from litestar.openapi.spec import OpenAPIType, Schema

from provider.dialects.openai.schemas import (
    ID,
    INPUT,
    MAX_TOKENS,
    NUMBERS,
    OPTIONS,
    SOME_TEXT,
    TRUNCATE,
    USER,
    list_of,
    object_of,
    one_of_fields,
    optional,
    request_of,
    text,
)
from provider.dialects.scores.operations import PAIR, RERANK_REQUEST

_TEXT, _NUMBER = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.NUMBER)
_INTEGER, _FLAG = Schema(type=OpenAPIType.INTEGER), Schema(type=OpenAPIType.BOOLEAN)
_MODEL = text("Of several models, which. TEI has no such field; without it, the only model that can answer does.")
_SIDE = text("Which end is cut off.", enum=["Left", "Right"])
_PROMPT_NAME = text("The name of one of the model's prompts.")
_NORMALIZE = Schema(type=OpenAPIType.BOOLEAN, description="Whether vectors have length 1. Default: true.")
_EMBED_OPTIONS = {
    "prompt_name": _PROMPT_NAME,
    "normalize": _NORMALIZE,
    "dimensions": OPTIONS["dimensions"],
    "truncate": TRUNCATE,
    "truncation_direction": _SIDE,
}
_CUT = {"truncate": TRUNCATE, "truncation_direction": _SIDE, "max_tokens": MAX_TOKENS}
_EVERYWHERE = {"model": _MODEL, "user": USER}


def _request(required: Sequence[str], **properties: Schema) -> Schema:
    return request_of(required, {**properties, **_EVERYWHERE})


def _embed(inputs: Schema, more: Mapping[str, Schema] = {}) -> Schema:
    return _request(["inputs"], inputs=inputs, max_tokens=MAX_TOKENS, **_EMBED_OPTIONS, **more)


_SENTENCES = object_of(
    ["source_sentence", "sentences"], source_sentence=SOME_TEXT, sentences=list_of(SOME_TEXT, min_items=1)
)
_PARAMETERS = replace(request_of([], _EMBED_OPTIONS), additional_properties=False)
_LABELS = list_of(object_of(["score", "label"], score=_NUMBER, label=_TEXT))

TOKENS_REQUEST = _embed(INPUT)
EMBED_REQUEST = _embed(replace(INPUT, one_of=[*(INPUT.one_of or ()), _SENTENCES]))
SIMILARITY_REQUEST = _embed(_SENTENCES, {"parameters": _PARAMETERS})
PREDICT_REQUEST = _request(
    ["inputs"],
    inputs=Schema(
        description="A text, an array of two texts (a pair), or an array of arrays of one text or of two each.",
        one_of=[
            SOME_TEXT,
            list_of(SOME_TEXT, min_items=1, max_items=1),
            PAIR,
            list_of(list_of(SOME_TEXT, min_items=1, max_items=1), min_items=1),
            list_of(PAIR, min_items=1),
        ],
    ),
    raw_scores=_FLAG,
    instruction=text("For models whose template has a place for one. Default: the model's own."),
    **_CUT,
)
RERANK_REQUEST_AT_ROOT = replace(
    RERANK_REQUEST,
    title="RootRerankRequest",
    properties={**(RERANK_REQUEST.properties or {}), "model": optional(_MODEL)},
    one_of=one_of_fields(
        documents=Schema(type=OpenAPIType.ARRAY),
        texts=Schema(type=OpenAPIType.ARRAY),
    ),
)
TOKENIZE_REQUEST = _request(
    ["inputs"],
    inputs=Schema(one_of=[_TEXT, list_of(_TEXT, min_items=1)]),
    add_special_tokens=_FLAG,
    prompt_name=_PROMPT_NAME,
)
_ROW = list_of(ID, min_items=1)
DECODE_REQUEST = _request(["ids"], ids=Schema(one_of=[_ROW, list_of(_ROW, min_items=1)]), skip_special_tokens=_FLAG)

VECTORS = list_of(NUMBERS)
TOKEN_VECTORS = list_of(VECTORS)
SPARSE_VECTORS = list_of(list_of(object_of(["index", "value"], index=_INTEGER, value=_NUMBER)))
SIMILARITIES = NUMBERS
PREDICTIONS = Schema(any_of=[_LABELS, list_of(_LABELS)])
EMBEDDED = Schema(description="Vectors; of a source sentence, similarities.", any_of=[VECTORS, SIMILARITIES])
ROOT = Schema(
    description="As the path of the model's kind answers.",
    any_of=[VECTORS, SIMILARITIES, SPARSE_VECTORS, _LABELS, list_of(_LABELS)],
)
ROOT_REQUEST = Schema(description="As the path of the model's kind takes it.", any_of=[EMBED_REQUEST, PREDICT_REQUEST])
RANKS = list_of(object_of(["index", "score"], index=_INTEGER, score=_NUMBER, text=_TEXT))
TEXTS = list_of(_TEXT)
_PLACE = Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL], description="In the text; null of special tokens.")
TOKENS = list_of(
    list_of(
        object_of(
            ["id", "text", "special", "start", "stop"],
            id=_INTEGER,
            text=_TEXT,
            special=_FLAG,
            start=_PLACE,
            stop=_PLACE,
        )
    )
)
