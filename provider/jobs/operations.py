"""What Litestar cannot know of the operations of files and batches, for the OpenAPI document."""

from dataclasses import dataclass

from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)

from provider.dialects.openai.error_examples import ERRORS

_TEXT, _INTEGER = Schema(type=OpenAPIType.STRING), Schema(type=OpenAPIType.INTEGER)
_OBJECT = Schema(type=OpenAPIType.OBJECT)
_UPLOAD = Schema(
    type=OpenAPIType.OBJECT,
    required=["file", "purpose"],
    properties={
        "file": Schema(
            type=OpenAPIType.STRING, content_media_type="application/jsonl", description="JSON lines, one request each."
        ),
        "purpose": Schema(type=OpenAPIType.STRING, enum=["batch"]),
        "expires_after[anchor]": Schema(type=OpenAPIType.STRING, enum=["created_at"]),
        "expires_after[seconds]": Schema(type=OpenAPIType.INTEGER, minimum=3600, maximum=2_592_000),
    },
)
_CREATE = Schema(
    type=OpenAPIType.OBJECT,
    required=["input_file_id", "endpoint"],
    properties={
        "input_file_id": _TEXT,
        "endpoint": Schema(
            type=OpenAPIType.STRING, description="Of all requests: `/v1/embeddings`, `/v1/rerank`, `/v1/score`."
        ),
        "completion_window": Schema(
            type=OpenAPIType.STRING,
            description="After so long the batch expires: `24h` (the default), `90m`, `7d`; up to 30 days.",
        ),
        "metadata": Schema(type=OpenAPIType.OBJECT, description="Up to 16 pairs of strings."),
        "output_expires_after": Schema(type=OpenAPIType.OBJECT, properties={"anchor": _TEXT, "seconds": _INTEGER}),
    },
)
_CREATE_EXAMPLE = {
    "input_file_id": "file-0123456789abcdef01234567",
    "endpoint": "/v1/embeddings",
    "completion_window": "24h",
}


def _answer(description: str, *errors: str) -> dict[str, OpenAPIResponse | Reference]:
    answer = OpenAPIResponse(description=description, content={"application/json": OpenAPIMediaType(schema=_OBJECT)})
    return {"200": answer, **{status: ERRORS[status] for status in errors}}


def _query(**parameters: tuple[str, Schema]) -> list[Parameter | Reference]:
    return [
        Parameter(name=name, param_in="query", required=False, description=text, schema=schema)
        for name, (text, schema) in parameters.items()
    ]


@dataclass
class UploadOperation(Operation):
    """The handler reads the raw body, so its description is written here."""

    def __post_init__(self) -> None:
        """Put request and answers in."""
        media = OpenAPIMediaType(schema=_UPLOAD)
        self.request_body = RequestBody(required=True, content={"multipart/form-data": media})
        self.responses = _answer("The file.", "400", "401", "403", "408", "413")


@dataclass
class CreateBatchOperation(Operation):
    """The handler reads the raw body, so its description is written here."""

    def __post_init__(self) -> None:
        """Put request and answers in."""
        media = OpenAPIMediaType(schema=_CREATE, examples={"example": Example(value=_CREATE_EXAMPLE)})
        self.request_body = RequestBody(required=True, content={"application/json": media})
        self.responses = _answer("The batch.", "400", "401", "403", "404")


@dataclass
class ObjectOperation(Operation):
    """Of one file or batch."""

    def __post_init__(self) -> None:
        """Put the answers in."""
        self.responses = _answer("The file or batch, or the file's bytes.", "400", "401", "403", "404")


@dataclass
class FilesOperation(Operation):
    """The handler reads the raw query, so its parameters are written here."""

    def __post_init__(self) -> None:
        """Put parameters and answers in."""
        self.parameters = _query(
            purpose=("`batch` or `batch_output`.", _TEXT),
            limit=("The most files in the answer: 1 to 10,000, the default.", _INTEGER),
            after=("The id of the last file of the answer before.", _TEXT),
            order=("`desc`, the newest first, or `asc`.", _TEXT),
        )
        self.responses = _answer("A list of files.", "400", "401", "403", "404")


@dataclass
class BatchesOperation(Operation):
    """The handler reads the raw query, so its parameters are written here."""

    def __post_init__(self) -> None:
        """Put parameters and answers in."""
        self.parameters = _query(
            limit=("The most batches in the answer: 1 to 100; without it 20.", _INTEGER),
            after=("The id of the last batch of the answer before.", _TEXT),
        )
        self.responses = _answer("A list of batches.", "400", "401", "403", "404")
