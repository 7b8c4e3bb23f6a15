"""What requests and answers look like, for the OpenAPI document."""

from typing import Any

import msgspec
from litestar.openapi.spec import Example, OpenAPIHeader, OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Schema

from provider.api.fields import FOREIGN

_INVALID = "invalid_request_error"


def _text(description: str, **more: Any) -> Schema:  # noqa: ANN401 - Schema's own fields
    return Schema(type=OpenAPIType.STRING, description=description, **more)


_INPUT = Schema(
    description="One text, or up to 2,048. Token ids are refused unless the model is configured with "
    "`token_input: native`, because ids mean something else to every tokenizer.",
    one_of=[
        Schema(type=OpenAPIType.STRING, min_length=1),
        Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.STRING, min_length=1), min_items=1),
        Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.INTEGER), min_items=1),
        Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.INTEGER), min_items=1),
            min_items=1,
        ),
        Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT, required=["text"], properties={"text": Schema(type=OpenAPIType.STRING)}
            ),
            min_items=1,
        ),
    ],
)

REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    title="CreateEmbeddingRequest",
    description="Every optional field may be null. Fields of other APIs are read as these or refused: "
    f"{', '.join(f'`{name}`' for name in FOREIGN)}. Further fields are ignored.",
    required=["input", "model"],
    properties={
        "input": _INPUT,
        "model": _text("A model's name or alias, as `GET /v1/models` lists them."),
        "encoding_format": _text(
            "`float`: the shortest decimals that read back as the same float32. `base64`: little-endian float32.",
            enum=["float", "base64"],
            default="float",
        ),
        "dimensions": Schema(
            type=OpenAPIType.INTEGER,
            minimum=1,
            description="Keep the leading dimensions only, before the vector is scaled to length 1.",
        ),
        "truncate": Schema(
            description="What happens to inputs that are too long: `true` or `END` cut the end, `START` the start, "
            "`false` or `NONE` make it an error. Default: as the model is configured (error).",
            one_of=[
                Schema(type=OpenAPIType.BOOLEAN),
                Schema(type=OpenAPIType.STRING, enum=["NONE", "START", "END"]),
            ],
        ),
        "input_type": _text("`query` or `document`: puts the model's own prompt for that before every input."),
        "prompt_name": _text("The name of one of the model's prompts."),
        "prompt": _text("A text to put before every input."),
        "normalize": Schema(
            type=OpenAPIType.BOOLEAN,
            description="Whether vectors have length 1. Default: as the model is configured (true for most).",
        ),
        "user": _text("Accepted and ignored."),
    },
)

_RESPONSE = Schema(
    type=OpenAPIType.OBJECT,
    title="CreateEmbeddingResponse",
    required=["object", "data", "model", "usage"],
    properties={
        "object": _text("Always `list`."),
        "data": Schema(
            type=OpenAPIType.ARRAY,
            items=Schema(
                type=OpenAPIType.OBJECT,
                properties={
                    "object": _text("Always `embedding`."),
                    "index": Schema(type=OpenAPIType.INTEGER, description="The input's place in the request."),
                    "embedding": Schema(
                        description="The vector.",
                        one_of=[
                            Schema(type=OpenAPIType.ARRAY, items=Schema(type=OpenAPIType.NUMBER)),
                            Schema(type=OpenAPIType.STRING, content_encoding="base64"),
                        ],
                    ),
                },
            ),
        ),
        "model": _text("The model as the request named it."),
        "usage": Schema(
            type=OpenAPIType.OBJECT,
            properties={
                "prompt_tokens": Schema(type=OpenAPIType.INTEGER),
                "total_tokens": Schema(type=OpenAPIType.INTEGER),
            },
        ),
        "truncated": Schema(
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
        ),
    },
)

_NULLABLE_TEXT = [OpenAPIType.STRING, OpenAPIType.NULL]
_ERROR = Schema(
    type=OpenAPIType.OBJECT,
    title="Error",
    required=["error", "detail"],
    properties={
        "error": Schema(
            type=OpenAPIType.OBJECT,
            required=["message", "type", "param", "code"],
            properties={
                "message": _text("What was got, what is allowed, what to do."),
                "type": _text("OpenAI's error type."),
                "param": Schema(type=_NULLABLE_TEXT, description="The field at fault."),
                "code": Schema(type=_NULLABLE_TEXT, description="OpenAI's error code."),
            },
        ),
        "detail": _text("The message again, where Voyage's and Jina's clients look for it."),
    },
)


class _ErrorFields(msgspec.Struct):
    """A struct, because Litestar drops the null values of a dictionary from an example."""

    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields
    detail: str


def _error(description: str, message: str, error_type: str, param: str | None, code: str | None) -> OpenAPIResponse:
    example = Example(value=_ErrorBody(_ErrorFields(message, error_type, param, code), message))
    media = OpenAPIMediaType(schema=_ERROR, examples={"example": example})
    return OpenAPIResponse(description=description, content={"application/json": media})


ERRORS = {
    "400": _error(
        "The request cannot be answered as it is.",
        "Invalid 'input[3]': maximum input length is 256 tokens. This model's maximum context length is 256 tokens, "
        'however input 3 has 734 tokens. Shorten it, or send "truncate": true.',
        _INVALID,
        "input[3]",
        "context_length_exceeded",
    ),
    "401": _error("A key is required.", "Incorrect API key provided: sk-…lETQ.", _INVALID, None, "invalid_api_key"),
    "404": _error(
        "No such model.",
        "The model `nope` does not exist or you do not have access to it.",
        _INVALID,
        "model",
        "model_not_found",
    ),
    "408": _error(
        "The body did not arrive in time.", "The request did not arrive in time.", _INVALID, None, "request_timeout"
    ),
    "413": _error(
        "The body is too large.", "Maximum content size limit (16777216) exceeded.", "server_error", None, None
    ),
    "429": _error(
        "The queue is full; `Retry-After` says when to come back.",
        "The service is overloaded: 590000 tokens wait, this request has 20000 and the queue holds 600000. "
        "Please try again in 12s.",
        "tokens",
        None,
        "rate_limit_exceeded",
    ),
    "500": _error(
        "The forward pass failed.",
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
        None,
        "embedding_failed",
    ),
    "503": _error(
        "Loading, or shutting down; `Retry-After` says when to come back.",
        "The model `all-MiniLM-L6-v2` is still loading. Please try again in 5s.",
        "service_unavailable_error",
        None,
        "model_loading",
    ),
}
"""By status; every error on every path looks like this."""

EMBEDDINGS = OpenAPIResponse(
    description="Vectors, in the order of the inputs.",
    headers={
        "x-request-id": OpenAPIHeader(description="The request's id in the log.", schema=_text("")),
        "x-model-fingerprint": OpenAPIHeader(
            description="Vectors are comparable under the same fingerprint only.", schema=_text("")
        ),
        "x-truncated-inputs": OpenAPIHeader(description="How many inputs were cut, if any.", schema=_text("")),
    },
    content={
        "application/json": OpenAPIMediaType(
            schema=_RESPONSE,
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
