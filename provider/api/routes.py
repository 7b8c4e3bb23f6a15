"""The paths of the API, in one place. The first of several is the one that is told."""

from provider.settings import Settings

EMBEDDINGS_PATHS = ["/v1/embeddings", "/embeddings"]
MODELS_PATHS = ["/v1/models", "/models"]
MODEL_PATHS = [f"{path}/{{model_id:path}}" for path in MODELS_PATHS]
LIVE_PATHS = ["/health/live", "/livez"]
READY_PATHS = ["/health/ready", "/health", "/readyz", "/healthz", "/ping"]
METRICS_PATH = "/metrics"
DOCS_PATH = "/docs"
DOCS_ASSETS_PATH = "/docs-assets"
OPENAPI_PATH = "/openapi.json"

_ALL_NAMES = (EMBEDDINGS_PATHS, MODELS_PATHS, MODEL_PATHS, LIVE_PATHS, READY_PATHS)
ALIASES = frozenset(path.replace(":path", "") for paths in _ALL_NAMES for path in paths[1:])
"""Further names of paths, as the OpenAPI document would write them."""

_ENDPOINTS = {
    "embeddings": f"POST {EMBEDDINGS_PATHS[0]}",
    "models": f"GET {MODELS_PATHS[0]}",
    "model": f"GET {MODELS_PATHS[0]}/{{id}}",
    "health": f"GET {READY_PATHS[1]}",
    "live": f"GET {LIVE_PATHS[0]}",
    "ready": f"GET {READY_PATHS[0]}",
    "metrics": f"GET {METRICS_PATH}",
    "docs": f"GET {DOCS_PATH}",
    "openapi": f"GET {OPENAPI_PATH}",
}


def endpoints(settings: Settings) -> dict[str, str]:
    """Method and path of everything that is served under these settings, by what it is for."""
    return {name: where for name, where in _ENDPOINTS.items() if name != "metrics" or settings.metrics.enabled}


def routes_text(settings: Settings) -> str:
    """All endpoints in a sentence, for people who got the URL wrong."""
    return f"This service answers: {', '.join(endpoints(settings).values())}."
