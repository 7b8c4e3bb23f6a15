"""The paths of the API, in one place."""

EMBEDDINGS_PATHS = ["/v1/embeddings", "/embeddings"]
MODELS_PATH = "/v1/models"
MODEL_PATH = "/v1/models/{model_id:path}"
HEALTH_PATH = "/health"
LIVE_PATH = "/health/live"
READY_PATH = "/health/ready"
METRICS_PATH = "/metrics"
DOCS_PATH = "/docs"
DOCS_ASSETS_PATH = "/docs-assets"

ENDPOINTS = {
    "embeddings": f"POST {EMBEDDINGS_PATHS[0]}",
    "models": f"GET {MODELS_PATH}",
    "model": "GET /v1/models/{id}",
    "health": f"GET {HEALTH_PATH}",
    "live": f"GET {LIVE_PATH}",
    "ready": f"GET {READY_PATH}",
    "metrics": f"GET {METRICS_PATH}",
    "docs": f"GET {DOCS_PATH}",
}


def routes_text() -> str:
    """All endpoints in a sentence, for people who got the URL wrong."""
    return f"This service answers: {', '.join(ENDPOINTS.values())}."
