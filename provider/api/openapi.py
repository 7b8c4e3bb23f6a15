"""The API in the service's own words, for `/docs` and `/docs/openapi.json`."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
    SecurityScheme,
    Tag,
)
from litestar.params import FromPath

import provider
from provider.api.routes import DOCS_ASSETS_PATH, DOCS_PATH

_DESCRIPTION = """\
A self-hosted embeddings service that speaks OpenAI's API: point any OpenAI client's `base_url` at `/v1`.

* Vectors equal sentence-transformers', have length 1, and come in the order of the inputs.
* `usage` counts the tokens that went through the model, special tokens included.
* An input that is too long is an error, unless `truncate` says otherwise; then the answer lists what was cut.
* Errors are OpenAI's envelope on every path. 429 and 503 carry `Retry-After` in seconds.
"""


_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-standalone-preset.js": "text/javascript",
}


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
    ],
)

_REQUEST = Schema(
    type=OpenAPIType.OBJECT,
    title="CreateEmbeddingRequest",
    description="Unknown fields are ignored; every optional field may be null.",
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
            description="Keep the leading dimensions only; the vector is scaled to length 1 again.",
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

_ERROR = Schema(
    type=OpenAPIType.OBJECT,
    title="Error",
    properties={
        "error": Schema(
            type=OpenAPIType.OBJECT,
            required=["message", "type", "param", "code"],
            properties={
                "message": _text("What was got, what is allowed, what to do."),
                "type": _text("OpenAI's error type."),
                "param": Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL], description="The field at fault."),
                "code": Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL]),
            },
        )
    },
)


class _ErrorFields(msgspec.Struct):
    """A struct, because Litestar drops the null values of a dictionary from an example."""

    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorExample(msgspec.Struct):
    error: _ErrorFields


def _error(description: str, message: str, error_type: str, param: str | None, code: str | None) -> OpenAPIResponse:
    example = Example(value=_ErrorExample(_ErrorFields(message, error_type, param, code)))
    media = OpenAPIMediaType(schema=_ERROR, examples={"example": example})
    return OpenAPIResponse(description=description, content={"application/json": media})


_INVALID = "invalid_request_error"
_RESPONSES = {
    "200": OpenAPIResponse(
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
    ),
    "400": _error(
        "The request cannot be answered as it is.",
        "Invalid 'input[3]': maximum input length is 256 tokens. This model's maximum context length is 256 tokens, "
        'however input 3 has 734 tokens. Shorten it, or send "truncate": true.',
        _INVALID,
        "input[3]",
        "context_length_exceeded",
    ),
    "401": _error("Keys are required.", "Incorrect API key provided: sk-…lETQ.", _INVALID, None, "invalid_api_key"),
    "404": _error(
        "No such model.",
        "The model `nope` does not exist or you do not have access to it.",
        _INVALID,
        "model",
        "model_not_found",
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


@dataclass
class EmbeddingsOperation(Operation):
    """The handler reads the raw body, so its description is written here."""

    def __post_init__(self) -> None:
        """Put request and responses in."""
        self.request_body = RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    schema=_REQUEST,
                    examples={
                        "one text": Example(value={"model": "all-MiniLM-L6-v2", "input": "A cat sits on the mat."}),
                        "many texts, 128 dimensions": Example(
                            value={
                                "model": "all-MiniLM-L6-v2",
                                "input": ["A cat.", "A dog."],
                                "dimensions": 128,
                                "encoding_format": "base64",
                            }
                        ),
                    },
                )
            },
        )
        self.responses = dict(_RESPONSES)


def openapi_config() -> OpenAPIConfig:
    """Where the documentation is served, and its texts."""
    return OpenAPIConfig(
        title="emb-provider",
        version=provider.__version__,
        description=_DESCRIPTION,
        path=DOCS_PATH,
        openapi_router=Router(
            DOCS_PATH, route_handlers=[], include_in_schema=False, after_request=_refuse_unknown_pages
        ),
        render_plugins=[
            SwaggerRenderPlugin(
                js_url=f"{DOCS_ASSETS_PATH}/swagger-ui-bundle.js",
                css_url=f"{DOCS_ASSETS_PATH}/swagger-ui.css",
                standalone_preset_js_url=f"{DOCS_ASSETS_PATH}/swagger-ui-standalone-preset.js",
                favicon='<link rel="icon" href="data:,">',
                path="/",
            )
        ],
        security=[{}, {"bearer": []}],
        components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
        tags=[
            Tag(name="Embeddings", description="Vectors for texts."),
            Tag(name="Models", description="What can be asked for."),
            Tag(name="Health", description="For load balancers and orchestrators."),
            Tag(name="Service", description="About the service itself."),
        ],
    )


def _refuse_unknown_pages(response: Response[Any]) -> Response[Any]:
    """Litestar answers unknown paths below the documentation with a page of its own; here every error is OpenAI's."""
    if response.status_code == 404:
        raise NotFoundException
    return response


@get(f"{DOCS_ASSETS_PATH}/{{name:str}}", include_in_schema=False, sync_to_thread=True)
def docs_assets(name: FromPath[str]) -> Response[bytes]:
    """Swagger UI's files from the installed package: the page works without internet."""
    found = importlib.util.find_spec("swagger_ui")
    if name not in _ASSETS or found is None or found.origin is None:
        raise NotFoundException
    content = (Path(found.origin).parent / "static" / name).read_bytes()
    return Response(content, media_type=_ASSETS[name], headers={"cache-control": "max-age=3600"})
