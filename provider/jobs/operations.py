"""What Litestar cannot know of the operations of files and batches, for the OpenAPI document."""

from dataclasses import dataclass

from litestar.openapi.spec import (
    Example,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)

from provider.dialects.openai.error_examples import ERROR, ERRORS
from provider.dialects.openai.schemas import optional
from provider.http.routes import JOB_PATHS
from provider.jobs.wire import (
    LEAST_KEPT_SECONDS,
    MOST_KEPT_SECONDS,
    MOST_KEY,
    MOST_METADATA,
    MOST_VALUE,
    WINDOW,
)

_TEXT = Schema(type=OpenAPIType.STRING)
_SECONDS = Schema(type=OpenAPIType.INTEGER, minimum=LEAST_KEPT_SECONDS, maximum=MOST_KEPT_SECONDS)
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
        "expires_after[seconds]": _SECONDS,
    },
)
_CREATE = Schema(
    type=OpenAPIType.OBJECT,
    required=["input_file_id", "endpoint"],
    properties={
        "input_file_id": _TEXT,
        "endpoint": Schema(type=OpenAPIType.STRING, enum=[*JOB_PATHS], description="Of all requests."),
        "completion_window": Schema(
            type=OpenAPIType.STRING,
            pattern=f"^{WINDOW.pattern}$",
            description="After so long the batch expires: `24h` (the default), `90m`, `7d`; up to 30 days.",
        ),
        "metadata": optional(
            Schema(
                type=OpenAPIType.OBJECT,
                max_properties=MOST_METADATA,
                property_names=Schema(max_length=MOST_KEY),
                additional_properties=Schema(type=OpenAPIType.STRING, max_length=MOST_VALUE),
            )
        ),
        "output_expires_after": optional(
            Schema(
                type=OpenAPIType.OBJECT,
                required=["seconds"],
                properties={
                    "anchor": Schema(type=OpenAPIType.STRING, enum=["created_at"]),
                    "seconds": _SECONDS,
                },
            )
        ),
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


def _up_to(most: int) -> Schema:
    return Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=most)


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
        self.responses = _answer("The file or batch.", "400", "401", "403", "404")


@dataclass
class ContentOperation(Operation):
    """Of a file's bytes."""

    def __post_init__(self) -> None:
        """Put the header and the answers in."""
        header = Parameter(name="range", param_in="header", required=False, schema=_TEXT)
        header.description = "`bytes=0-99`, `bytes=100-` or `bytes=-100`: so many bytes of the file."
        self.parameters = [*(self.parameters or []), header]
        media = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))
        wrong = {"application/json": OpenAPIMediaType(schema=ERROR)}
        self.responses = _answer("", "401", "403", "404") | {
            "200": OpenAPIResponse(description="All bytes.", content={"application/octet-stream": media}),
            "206": OpenAPIResponse(description="A range.", content={"application/octet-stream": media}),
            "416": OpenAPIResponse(description="The range begins behind the end.", content=wrong),
        }


@dataclass
class FilesOperation(Operation):
    """The handler reads the raw query, so its parameters are written here."""

    def __post_init__(self) -> None:
        """Put parameters and answers in."""
        self.parameters = _query(
            purpose=("`batch` or `batch_output`.", _TEXT),
            limit=("The most files in the answer: 1 to 10,000, the default.", _up_to(10_000)),
            after=("The id of the last file of the answer before.", _TEXT),
            order=("`desc`, the newest first, or `asc`.", Schema(type=OpenAPIType.STRING, enum=["desc", "asc"])),
        )
        self.responses = _answer("A list of files.", "400", "401", "403", "404")


@dataclass
class BatchesOperation(Operation):
    """The handler reads the raw query, so its parameters are written here."""

    def __post_init__(self) -> None:
        """Put parameters and answers in."""
        self.parameters = _query(
            limit=("The most batches in the answer: 1 to 100; without it 20.", _up_to(100)),
            after=("The id of the last batch of the answer before.", _TEXT),
        )
        self.responses = _answer("A list of batches.", "400", "401", "403", "404")
