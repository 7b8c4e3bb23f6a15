"""What Litestar cannot know of OpenAI's operations, for the OpenAPI document."""

from dataclasses import dataclass

from litestar.openapi.spec import (
    Example,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)

from provider.dialects.openai.error_examples import ERRORS
from provider.dialects.openai.schemas import EMBEDDINGS, REQUEST, list_of, text

EMBEDDINGS_EXAMPLE = {"model": "all-MiniLM-L6-v2", "input": "A cat sits on the mat."}


@dataclass
class EmbeddingsOperation(Operation):
    """The handler reads the raw body, so its description is written here."""

    def __post_init__(self) -> None:
        """Put request and responses in."""
        examples = {
            "one text": EMBEDDINGS_EXAMPLE,
            "many texts, 128 dimensions": {
                "model": "all-MiniLM-L6-v2",
                "input": ["A cat.", "A dog."],
                "dimensions": 128,
                "encoding_format": "base64",
            },
            "three outputs in one pass": {
                "model": "bge-m3",
                "input": ["A cat."],
                "output_types": ["dense", "sparse", "multi_vector"],
            },
        }
        media = OpenAPIMediaType(
            schema=REQUEST, examples={name: Example(value=value) for name, value in examples.items()}
        )
        self.request_body = RequestBody(required=True, content={"application/json": media})
        self.responses = {"200": EMBEDDINGS, **ERRORS}


@dataclass
class ModelsOperation(Operation):
    """As Litestar describes it, but for the errors."""

    def __post_init__(self) -> None:
        """Put the errors in."""
        kept = {status: response for status, response in (self.responses or {}).items() if status == "200"}
        errors = ("401", "403", "404") if self.parameters else ("401",)
        self.responses = kept | {status: ERRORS[status] for status in errors}


@dataclass
class UsageOperation(Operation):
    """As Litestar describes it, with the parameters, which the handler reads from the raw query, and the errors."""

    def __post_init__(self) -> None:
        """Put parameters and errors in."""
        kept = {status: response for status, response in (self.responses or {}).items() if status == "200"}
        self.responses = kept | {status: ERRORS[status] for status in ("400", "401", "403")}
        self.parameters = [
            Parameter(name=name, param_in="query", required=False, description=text, schema=schema)
            for name, (text, schema) in _USAGE_PARAMETERS.items()
        ]


_TEXT = Schema(type=OpenAPIType.STRING)
_SECONDS = Schema(type=OpenAPIType.INTEGER, minimum=0, maximum=253_370_764_800)
_DAYS = Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=31)
_TEXTS = Schema(type=OpenAPIType.ARRAY, items=_TEXT)
_USAGE_PARAMETERS = {
    "start_time": ("The first day's time, in seconds since 1970; without it, six days ago.", _SECONDS),
    "end_time": ("Days that begin before it are shown; without it, until now.", _SECONDS),
    "group_by": ("`api_key_id`, `model` or both: a result for each.", list_of(text("", enum=["api_key_id", "model"]))),
    "api_key_ids": ("Only of the keys of these names.", _TEXTS),
    "models": ("Only of these models.", _TEXTS),
    "bucket_width": ("A day.", text("", enum=["1d"])),
    "limit": ("The most days in the answer: 1 to 31; without it 7.", _DAYS),
    "page": ("`next_page` of the answer before.", text("", format=OpenAPIFormat.DATE)),
}
