"""What TEI's requests and answers look like, for the OpenAPI document."""

from typing import Any

from litestar.openapi.spec import OpenAPIType, Schema

from provider.dialects.openai.schemas import MAX_TOKENS, text

_TEXT, _NUMBER = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.NUMBER)
_INTEGER, _FLAG = Schema(type=OpenAPIType.INTEGER), Schema(type=OpenAPIType.BOOLEAN)
_MODEL = text("Of several models, which. TEI has no such field; without it, the only model that can answer does.")
_CUT = {
    "truncate": Schema(
        type=OpenAPIType.BOOLEAN, description="Whether too long inputs are cut. Default: as the model is configured."
    ),
    "truncation_direction": text("Which end is cut off.", enum=["Left", "Right"]),
    "max_tokens": MAX_TOKENS,
}
_PROMPT_NAME = text("The name of one of the model's prompts.")


def list_of(items: Schema, **more: Any) -> Schema:  # noqa: ANN401 - Schema's own fields
    """An array."""
    return Schema(type=OpenAPIType.ARRAY, items=items, **more)


def object_of(required: list[str], **properties: Schema) -> Schema:
    """An object."""
    return Schema(type=OpenAPIType.OBJECT, required=required, properties={**properties})


_INPUTS = Schema(
    description="One text, or up to 2,048; or token ids, where the model is configured for them.",
    one_of=[_TEXT, list_of(_TEXT), list_of(_INTEGER), list_of(list_of(_INTEGER))],
)
_SENTENCES = object_of(["source_sentence", "sentences"], source_sentence=_TEXT, sentences=list_of(_TEXT))
_LABELS = list_of(object_of([], score=_NUMBER, label=_TEXT))

TOKENS_REQUEST = object_of(["inputs"], inputs=_INPUTS, prompt_name=_PROMPT_NAME, model=_MODEL, **_CUT)
EMBED_REQUEST = object_of(
    ["inputs"],
    inputs=Schema(one_of=[_INPUTS, _SENTENCES]),
    normalize=Schema(type=OpenAPIType.BOOLEAN, description="Whether vectors have length 1. Default: true."),
    dimensions=Schema(type=OpenAPIType.INTEGER, description="Keep the leading dimensions only."),
    prompt_name=_PROMPT_NAME,
    model=_MODEL,
    **_CUT,
)
SIMILARITY_REQUEST = object_of(["inputs"], inputs=_SENTENCES, parameters=object_of([], **_CUT), model=_MODEL)
PREDICT_REQUEST = object_of(
    ["inputs"],
    inputs=Schema(
        description="A text, an array of two texts (a pair), or an array of arrays of one text or of two each.",
        one_of=[_TEXT, list_of(_TEXT), list_of(list_of(_TEXT))],
    ),
    raw_scores=_FLAG,
    model=_MODEL,
    **_CUT,
)
RERANK_REQUEST = object_of(
    ["query", "texts"],
    query=_TEXT,
    texts=list_of(_TEXT),
    raw_scores=_FLAG,
    return_text=_FLAG,
    model=_MODEL,
    **_CUT,
)
TOKENIZE_REQUEST = object_of(
    ["inputs"],
    inputs=Schema(one_of=[_TEXT, list_of(_TEXT)]),
    add_special_tokens=_FLAG,
    prompt_name=_PROMPT_NAME,
    model=_MODEL,
)
DECODE_REQUEST = object_of(
    ["ids"],
    ids=Schema(one_of=[list_of(_INTEGER), list_of(list_of(_INTEGER))]),
    skip_special_tokens=_FLAG,
    model=_MODEL,
)

VECTORS = list_of(list_of(_NUMBER))
TOKEN_VECTORS = list_of(VECTORS)
SPARSE_VECTORS = list_of(list_of(object_of([], index=_INTEGER, value=_NUMBER)))
SIMILARITIES = list_of(_NUMBER)
PREDICTIONS = Schema(one_of=[_LABELS, list_of(_LABELS)])
RANKS = list_of(object_of(["index", "score"], index=_INTEGER, score=_NUMBER, text=_TEXT))
TEXTS = list_of(_TEXT)
TOKENS = list_of(list_of(object_of([], id=_INTEGER, text=_TEXT, special=_FLAG, start=_INTEGER, stop=_INTEGER)))
