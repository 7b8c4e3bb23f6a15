"""`GET /`: what this is and where things are."""

from typing import Any

from litestar import Request, get
from litestar.di import NamedDependency

import provider
from provider.engine.engine import Engine
from provider.http.auth import sees_models
from provider.http.routes import endpoints


@get("/", tags=["Service"])
async def root(request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> dict[str, Any]:
    """Name, version, endpoints and models."""
    is_shown = sees_models(request.scope)
    return {
        "name": "emb-provider",
        "version": provider.__version__,
        "endpoints": endpoints(request.app.state.settings),
        "models": [name for name in service.runtimes if is_shown(name)],
    }
