"""Azure OpenAI's API. A deployment is a model; its name is in the path, may hold slashes, and wins over the body's."""

from dataclasses import replace
from typing import Any

from litestar import Request
from litestar.exceptions import NotFoundException
from litestar.types import ASGIApp

from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.openai.api import envelope
from provider.dialects.openai.embeddings import answer_embeddings
from provider.dialects.openai.models import ModelsController
from provider.dialects.openai.operations import EMBEDDINGS_EXAMPLE
from provider.dialects.openai.schemas import REQUEST, RESPONSE, optional, text
from provider.engine.engine import Engine
from provider.errors import ModelNotFound
from provider.http.routes import AZURE_DEPLOYMENT_PATHS, AZURE_EMBEDDINGS_PATHS, AZURE_PATH

_OPERATION = "/embeddings"
_TITLE = "Azure OpenAI"


async def embed_by_deployment(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """As `POST /v1/embeddings`, with the model in the path: `…/deployments/{deployment}/embeddings`."""
    name, operation = str(request.path_params["deployment"]).strip("/"), _OPERATION
    if not name.endswith(operation):
        raise NotFoundException
    return await answer_embeddings(request, body, service, named=name.removesuffix(operation).strip("/"))


async def embed_by_name(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """As `POST /v1/embeddings`."""
    return await answer_embeddings(request, body, service)


class DeploymentsController(ModelsController):
    """What can be asked for: OpenAI's routes below Azure's path, with its errors."""

    path = AZURE_PATH
    tags = [_TITLE]  # noqa: RUF012 - Litestar's way
    opt = {"dialect": "azure"}  # noqa: RUF012


def write_error(failure: Failure) -> dict[str, Any]:
    """OpenAI's envelope; for an unknown model with Azure's code and first sentence."""
    body = envelope(failure)
    if isinstance(failure.cause, ModelNotFound):
        message = f"The API deployment for this resource does not exist. {failure.message}"
        body["error"] |= {"code": "DeploymentNotFound", "message": message}
        body["detail"] = message
    return body


_BY_DEPLOYMENT = replace(
    REQUEST,
    title="DeploymentEmbeddingRequest",
    required=["input"],
    properties={**(REQUEST.properties or {}), "model": optional(text("Ignored: the deployment is the model."))},
)

AZURE = Dialect(
    name="azure",
    title=_TITLE,
    description="Azure OpenAI's paths: a deployment is a model, and `api-version` may be anything.",
    paths=(AZURE_PATH, "/v1/engines", "/v1/deployments"),
    write_error=write_error,
    routes=(
        Route(
            AZURE_DEPLOYMENT_PATHS, embed_by_deployment, _BY_DEPLOYMENT, RESPONSE, {"input": "A cat."}, tasks=["embed"]
        ),
        Route(AZURE_EMBEDDINGS_PATHS, embed_by_name, REQUEST, RESPONSE, EMBEDDINGS_EXAMPLE, tasks=["embed"]),
    ),
    handlers=(DeploymentsController,),
)
