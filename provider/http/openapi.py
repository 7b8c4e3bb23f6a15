"""The API in the service's own words: what Litestar cannot know of the operations, and what goes before them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, Operation, SecurityScheme, Tag

import provider
from provider.http.docs import docs_plugins, docs_router
from provider.http.routes import DOCS_PATH

_DESCRIPTION = """\
A self-hosted embeddings service that speaks OpenAI's API: point any OpenAI client's `base_url` at `/v1`.

* Vectors equal sentence-transformers', have length 1 unless asked otherwise, and come in the order of the inputs.
* Rerankers and classifiers answer as those of Cohere, Jina, Voyage, TEI and vLLM do.
* `usage` counts the tokens that went through the model, special tokens included.
* An input that is too long is an error, unless `truncate` says otherwise; then the answer lists what was cut.
* Errors are OpenAI's envelope, and those of another API on its own paths. 429 and 503 carry `Retry-After` in seconds.
"""

NEEDS_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"api-key": []}]
"""`security` of the routes that ask for a key where keys are configured."""


@dataclass
class ReadinessOperation(Operation):
    """As Litestar describes it; 503 has the same body."""

    def __post_init__(self) -> None:
        """Put 503 in."""
        ready = (self.responses or {})["200"]
        ready.description = "Every model that was asked for works."
        self.responses = {"200": ready, "503": replace(ready, description="Not ready, or draining; the body says why.")}


def openapi_config(dialects: Sequence[Tag]) -> OpenAPIConfig:
    """Where the documentation is served, and its texts; `dialects` are headings."""
    return OpenAPIConfig(
        title="emb-provider",
        version=provider.__version__,
        description=_DESCRIPTION,
        use_handler_docstrings=True,
        path=DOCS_PATH,
        openapi_router=docs_router(),
        render_plugins=docs_plugins(),
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer"),
                "api-key": SecurityScheme(type="apiKey", name="api-key", security_scheme_in="header"),
            }
        ),
        tags=[
            Tag(name="Embeddings", description="Vectors for texts."),
            Tag(name="Models", description="What can be asked for."),
            *dialects,
            Tag(name="Health", description="For load balancers and orchestrators."),
            Tag(name="Service", description="About the service itself."),
        ],
    )
