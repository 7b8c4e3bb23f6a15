"""The paths of the API, in one place."""

from provider.settings import Settings

EMBEDDINGS_PATHS = ["/v1/embeddings", "/embeddings"]
MODELS_PATH = "/v1/models"
MODEL_PATH = "/v1/models/{model_id:path}"
HEALTH_PATH = "/health"
LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
METRICS_PATH = "/metrics"
DOCS_PATH = "/docs"
DOCS_ASSETS_PATH = "/docs-assets"

_ENDPOINTS = {
    "embeddings": f"POST {EMBEDDINGS_PATHS[0]}",
    "models": f"GET {MODELS_PATH}",
    "model": "GET /v1/models/{id}",
    "health": f"GET {HEALTH_PATH}",
    "live": f"GET {LIVE_PATH}",
    "ready": f"GET {READY_PATH}",
    "metrics": f"GET {METRICS_PATH}",
    "docs": f"GET {DOCS_PATH}",
}


def endpoints(settings: Settings) -> dict[str, str]:
    """Method and path of everything that is served under these settings, by what it is for."""
    return {name: where for name, where in _ENDPOINTS.items() if name != "metrics" or settings.metrics.enabled}


def routes_text(settings: Settings) -> str:
    """All endpoints in a sentence, for people who got the URL wrong."""
    return f"This service answers: {', '.join(endpoints(settings).values())}."
