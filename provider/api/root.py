"""`GET /`: what this is and where things are."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

import provider
from provider.api.routes import endpoints
from provider.engine.service import EmbeddingService


@get("/", tags=["Service"])
async def root(request: Request[Any, Any, Any], service: NamedDependency[EmbeddingService]) -> dict[str, Any]:
    """Name, version, endpoints and models."""
    return {
        "name": "emb-provider",
        "version": provider.__version__,
        "endpoints": endpoints(request.app.state.settings),
        "models": list(service.runtimes),
    }
