"""`GET /`: what this is and where things are; browsers are sent to the page."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency

import provider
from provider.engine.engine import Engine
from provider.http.auth import sees_models
from provider.http.routes import UI_PATH, endpoints
from provider.settings import Settings


@get("/", tags=["Service"])
async def root(request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> Response[dict[str, Any]]:
    """Name, version, endpoints and models. Browsers are sent to the page, where it is served."""
    settings: Settings = request.app.state.settings
    headers = {}
    if settings.ui.enabled:
        headers["vary"] = "Accept"
        if "text/html" in request.headers.get("accept", ""):
            # Relative, so that a path prefix does no harm.
            return Response({}, status_code=307, headers=headers | {"location": f"{UI_PATH[1:]}/"})
    is_shown = sees_models(request.scope)
    return Response(
        {
            "name": "emb-provider",
            "version": provider.__version__,
            "endpoints": endpoints(settings),
            "models": [name for name in service.runtimes if is_shown(name)],
        },
        headers=headers,
    )
