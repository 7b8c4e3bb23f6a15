"""`GET /`: what this is and where things are."""

from typing import Any

from litestar import get
from litestar.di import NamedDependency

import provider
from provider.api.routes import ENDPOINTS
from provider.engine.service import EmbeddingService


@get("/", tags=["Service"])
async def root(service: NamedDependency[EmbeddingService]) -> dict[str, Any]:
    """Name, version, endpoints and models."""
    return {
        "name": "emb-provider",
        "version": provider.__version__,
        "endpoints": ENDPOINTS,
        "models": list(service.runtimes),
    }
