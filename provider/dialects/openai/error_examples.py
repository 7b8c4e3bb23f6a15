"""Errors for the OpenAPI document: an example of each status."""

import msgspec
from litestar.openapi.spec import Example, OpenAPIMediaType, OpenAPIResponse, OpenAPIType, Schema

from provider.dialects.openai.schemas import text

_INVALID = "invalid_request_error"
_NULLABLE_TEXT = [OpenAPIType.STRING, OpenAPIType.NULL]
ERROR = Schema(
    type=OpenAPIType.OBJECT,
    title="Error",
    required=["error", "detail"],
    properties={
        "error": Schema(
            type=OpenAPIType.OBJECT,
            required=["message", "type", "param", "code"],
            properties={
                "message": text("What was got, what is allowed, what to do."),
                "type": text("OpenAI's error type."),
                "param": Schema(type=_NULLABLE_TEXT, description="The field at fault."),
                "code": Schema(type=_NULLABLE_TEXT, description="OpenAI's error code."),
            },
        ),
        "detail": text("The message again, where Voyage's and Jina's clients look for it."),
        "message": text("The message again, where Cohere's clients look for it: on the paths of rerank only."),
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
    media = OpenAPIMediaType(schema=ERROR, examples={"example": example})
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
    "403": _error(
        "The key does not allow this.",
        "You have insufficient permissions for this operation. Missing scopes: rerank. Your key is 'search'. "
        "It allows: embed. Ask whoever runs this service for another.",
        _INVALID,
        None,
        "missing_scope",
    ),
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
        "The queue is full, or the key's quota is used up; `Retry-After` says when to come back.",
        "The service is overloaded: 36000 tokens wait (at most 600000), and an answer would take 12 s (at most 10). "
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
