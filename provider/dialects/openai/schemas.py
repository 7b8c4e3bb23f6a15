"""What requests and answers look like, for the OpenAPI document."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from litestar.openapi.spec import (
    Example,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Reference,
    Schema,
)

from provider.dialects.fields import MAX_INT32
from provider.dialects.openai.fields import FOREIGN


def text(description: str, **more: Any) -> Schema:  # noqa: ANN401 - Schema's own fields
    """A string."""
    return Schema(type=OpenAPIType.STRING, description=description, **more)


def optional(schema: Schema) -> Schema:
    """A field that may be null, which is as if it were not there."""
    if schema.one_of is not None:
        return replace(schema, one_of=[*schema.one_of, Schema(type=OpenAPIType.NULL)])
    if schema.any_of is not None:
        return replace(schema, any_of=[*schema.any_of, Schema(type=OpenAPIType.NULL)])
    if isinstance(schema.type, OpenAPIType):
        values = None if schema.enum is None else [*schema.enum, None]
        return replace(schema, type=[schema.type, OpenAPIType.NULL], enum=values)
    return schema


def list_of(items: Schema, description: str = "", **more: Any) -> Schema:  # noqa: ANN401 - Schema's own fields
    """An array."""
    return Schema(type=OpenAPIType.ARRAY, items=items, description=description or None, **more)


def object_of(required: Sequence[str], **properties: Schema) -> Schema:
    """An object."""
    return Schema(type=OpenAPIType.OBJECT, required=[*required], properties={**properties})


def request_of(required: Sequence[str], properties: Mapping[str, Schema], **more: Any) -> Schema:  # noqa: ANN401
    """A body, whose fields may be null but for those that are `required`."""
    fields = {name: each if name in required else optional(each) for name, each in properties.items()}
    return Schema(type=OpenAPIType.OBJECT, required=[*required], properties={**fields}, **more)


def one_of_fields(**fields: Schema) -> list[Schema]:
    """Of a body that needs exactly one of several optional fields: branches for `one_of`."""
    return [Schema(required=[name], properties={name: each}) for name, each in fields.items()]


SOME_TEXT = Schema(type=OpenAPIType.STRING, min_length=1)
_TEXT_OBJECT = Schema(
    type=OpenAPIType.OBJECT,
    required=["text"],
    properties={"text": SOME_TEXT, "type": Schema(const="text"), "id": Schema(), "metadata": Schema()},
    additional_properties=False,
)
ID = Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=MAX_INT32)
INPUT = Schema(
    description="One text, or up to 2,048. Token ids are refused unless `token_input` of the model's "
    "configuration says whose they are (or the model is asked for by a name of OpenAI's, whose ids are then decoded), "
    "because ids mean something else to every tokenizer.",
    one_of=[
        SOME_TEXT,
        _TEXT_OBJECT,
        Schema(type=OpenAPIType.ARRAY, items=Schema(one_of=[SOME_TEXT, _TEXT_OBJECT]), min_items=1),
        Schema(type=OpenAPIType.ARRAY, items=ID, min_items=1),
        Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.ARRAY, items=ID, min_items=1), min_items=1),
    ],
)

TRUNCATE = Schema(
    description="What happens to inputs that are too long: `true` cuts them, `END` at the end, `START` at the start, "
    "`false` or `NONE` make it an error. Default: as the model is configured (error).",
    one_of=[
        Schema(type=OpenAPIType.BOOLEAN),
        Schema(type=OpenAPIType.STRING, enum=["NONE", "START", "END"]),
    ],
)

MAX_TOKENS = Schema(
    type=OpenAPIType.INTEGER,
    minimum=1,
    maximum=MAX_INT32,
    description="Most tokens of an input, special tokens and prompt (or query) included. Longer ones are cut, unless "
    "`truncate` says otherwise.",
)

USAGE = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "prompt_tokens": Schema(type=OpenAPIType.INTEGER),
        "total_tokens": Schema(type=OpenAPIType.INTEGER),
    },
)

TRUNCATED = Schema(
    type=OpenAPIType.ARRAY,
    description="Inputs that were cut; absent if none was. `original_tokens` is null for a text so long that "
    "only as much of it was counted as was needed.",
    items=Schema(
        type=OpenAPIType.OBJECT,
        properties={
            "index": Schema(type=OpenAPIType.INTEGER),
            "kept_tokens": Schema(type=OpenAPIType.INTEGER),
            "original_tokens": Schema(type=[OpenAPIType.INTEGER, OpenAPIType.NULL]),
        },
    ),
)

MODEL = text("A model's name or alias, as `GET /v1/models` lists them.", min_length=1)
USER = Schema(description="Anything. Accepted and ignored.")

OPTIONS = {
    "encoding_format": text(
        "`float`: the shortest decimals that read back as the same float32. `base64`: little-endian float32.",
        enum=["float", "base64"],
        default="float",
    ),
    "dimensions": Schema(
        type=OpenAPIType.INTEGER,
        minimum=1,
        maximum=MAX_INT32,
        description="Keep the leading dimensions only, before the vector is scaled to length 1.",
    ),
    "truncate": TRUNCATE,
    "max_tokens": MAX_TOKENS,
    "input_type": text("`query` or `document`: puts the model's own prompt for that before every input."),
    "prompt_name": text("The name of one of the model's prompts."),
    "prompt": text("A text to put before every input."),
    "normalize": Schema(
        type=OpenAPIType.BOOLEAN,
        description="Whether vectors have length 1. Default: as the model is configured (true for most).",
    ),
    "output_types": Schema(
        description="What is wanted of each input: one or several of `dense`, `sparse` and `multi_vector`, as far "
        "as the model gives them. Default: `dense`.",
        one_of=[
            Schema(type=OpenAPIType.STRING),
            Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING)),
        ],
    ),
    "output_dtype": text(
        "What the numbers of dense and of token vectors are. `int8` and `uint8` have ranges that the answer names; "
        "`binary` (int8) and `ubinary` (uint8) hold eight dimensions a byte.",
        enum=["float", "int8", "uint8", "binary", "ubinary"],
        default="float",
    ),
    "user": USER,
}

REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    title="CreateEmbeddingRequest",
    description="Every optional field may be null. Fields of other APIs are read as these or refused: "
    f"{', '.join(f'`{name}`' for name in FOREIGN)}. Further fields are ignored.",
    required=["input", "model"],
    properties={
        "input": INPUT,
        "model": MODEL,
        **{name: optional(each) for name, each in OPTIONS.items()},
    },
)


def listing(entry: Mapping[str, Schema], before: Mapping[str, Schema] = {}) -> Schema:
    """An answer with an `entry` for each input, in the order of the request, and fields `before` these."""
    return Schema(
        type=OpenAPIType.OBJECT,
        properties={
            **before,
            "object": text("Always `list`."),
            "data": Schema(
                type=OpenAPIType.ARRAY,
                items=Schema(
                    type=OpenAPIType.OBJECT,
                    properties={"index": Schema(type=OpenAPIType.INTEGER), **entry},
                ),
            ),
            "model": text("The model as the request named it."),
            "usage": USAGE,
            "truncated": TRUNCATED,
        },
    )


NUMBERS = Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.NUMBER))

RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    title="CreateEmbeddingResponse",
    required=["object", "data", "model", "usage"],
    properties={
        "object": text("Always `list`."),
        "data": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT,
                properties={
                    "object": text("Always `embedding`."),
                    "index": Schema(type=OpenAPIType.INTEGER, description="The input's place in the request."),
                    "embedding": Schema(
                        description="The dense vector, if it was asked for.",
                        one_of=[
                            NUMBERS,
                            Schema(type=OpenAPIType.STRING, content_encoding="base64"),
                        ],
                    ),
                    "sparse": Schema(
                        type=OpenAPIType.OBJECT,
                        description="The sparse vector, if it was asked for: ids of the vocabulary, ascending, and "
                        "their weights.",
                        properties={
                            "indices": Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.INTEGER)),
                            "values": NUMBERS,
                        },
                    ),
                    "multi_vector": Schema(
                        type=OpenAPIType.ARRAY,
                        description="A vector for each token, if they were asked for, each written as `embedding` is.",
                        items=Schema(
                            one_of=[
                                NUMBERS,
                                Schema(type=OpenAPIType.STRING, content_encoding="base64"),
                            ]
                        ),
                    ),
                },
            ),
        ),
        "model": text("The model as the request named it."),
        "usage": USAGE,
        "quantization": Schema(
            type=OpenAPIType.OBJECT,
            description="With an `output_dtype` other than `float`: which, and for `int8` and `uint8` the `name` and "
            "`source` of the ranges of each output. Integers are comparable under the same name only.",
        ),
        "truncated": TRUNCATED,
    },
)

ANSWER_HEADERS: dict[str, OpenAPIHeader | Reference] = {
    "x-request-id": OpenAPIHeader(description="The request's id in the log.", schema=text("")),
    "x-model-fingerprint": OpenAPIHeader(
        description="Outputs are comparable under the same fingerprint only.", schema=text("")
    ),
    "x-truncated-inputs": OpenAPIHeader(description="How many inputs were cut, if any.", schema=text("")),
}
"""Of every answer that a model gives."""

EMBEDDINGS = OpenAPIResponse(
    description="Vectors, in the order of the inputs.",
    headers=ANSWER_HEADERS,
    content={
        "application/json": OpenAPIMediaType(
            schema=RESPONSE,
            examples={
                "one text": Example(
                    value={
                        "object": "list",
                        "data": [{"object": "embedding", "index": 0, "embedding": [0.034, 0.031, -0.012]}],
                        "model": "all-MiniLM-L6-v2",
                        "usage": {"prompt_tokens": 6, "total_tokens": 6},
                    }
                )
            },
        )
    },
)
