"""The paths of the API, in one place. The first of several is the one that is told."""

from provider.settings import Settings

EMBEDDINGS_PATHS = ["/v1/embeddings", "/embeddings"]
INFINITY_RERANK_PATH = "/infinity/rerank"
RERANK_PATHS = ["/v1/rerank", "/rerank", "/v2/rerank", INFINITY_RERANK_PATH]
SCORE_PATHS = ["/v1/score", "/score"]
CLASSIFY_PATHS = ["/v1/classify", "/classify"]
MODELS_PATHS = ["/v1/models", "/models"]
MODEL_PATHS = [f"{path}/{{model_id:path}}" for path in MODELS_PATHS]
USAGE_PATHS = ["/v1/usage", "/v1/organization/usage/embeddings"]
FILES_PATH, BATCHES_PATH = "/v1/files", "/v1/batches"
JOB_PATHS = [each[0] for each in (EMBEDDINGS_PATHS, RERANK_PATHS, SCORE_PATHS, CLASSIFY_PATHS)]
"""What requests of batches may be for."""
LIVE_PATHS = ["/health/live", "/livez"]
READY_PATHS = ["/health/ready", "/health", "/readyz", "/healthz", "/ping"]
METRICS_PATH = "/metrics"
DOCS_PATH = "/docs"
UI_PATH = "/ui"
DOCS_ASSETS_PATH = "/docs-assets"
OPENAPI_PATH = "/openapi.json"

AZURE_PATH = "/openai"
# Litestar reads slashes in the last parameter only, so that it holds what follows the name too.
AZURE_DEPLOYMENT_PATHS = [
    f"{base}/{{deployment:path}}"
    for base in (f"{AZURE_PATH}/deployments", f"{AZURE_PATH}/v1/deployments", "/v1/deployments", "/v1/engines")
]
AZURE_EMBEDDINGS_PATHS = [f"{AZURE_PATH}/v1/embeddings"]
AZURE_MODELS_PATHS, AZURE_MODEL_PATHS = (
    [f"{AZURE_PATH}{path}" for path in paths] for paths in (MODELS_PATHS, MODEL_PATHS)
)

MODEL_RUNNING_PATHS = (
    EMBEDDINGS_PATHS,
    RERANK_PATHS,
    SCORE_PATHS,
    CLASSIFY_PATHS,
    AZURE_DEPLOYMENT_PATHS,
    AZURE_EMBEDDINGS_PATHS,
)
"""The paths that run a model, by route."""
_ALL_NAMES = (
    *MODEL_RUNNING_PATHS,
    MODELS_PATHS,
    MODEL_PATHS,
    USAGE_PATHS,
    LIVE_PATHS,
    READY_PATHS,
    AZURE_MODELS_PATHS,
    AZURE_MODEL_PATHS,
)
ALIASES = frozenset(path.replace(":path", "") for paths in _ALL_NAMES for path in paths[1:])
"""Further names of paths, as the OpenAPI document would write them."""
DOCUMENTED_AS = {"/openai/deployments/{deployment}": "/openai/deployments/{deployment}/embeddings"}
"""Paths that Litestar cannot write as they are asked for."""

COHERE_PATHS = frozenset(RERANK_PATHS)
"""The paths whose errors say their message as `message` too, where Cohere's clients read it."""

_ENDPOINTS = {
    "embeddings": f"POST {EMBEDDINGS_PATHS[0]}",
    "rerank": f"POST {RERANK_PATHS[0]}",
    "score": f"POST {SCORE_PATHS[0]}",
    "classify": f"POST {CLASSIFY_PATHS[0]}",
    "models": f"GET {MODELS_PATHS[0]}",
    "model": f"GET {MODELS_PATHS[0]}/{{id}}",
    "files": f"POST {FILES_PATH}",
    "batches": f"POST {BATCHES_PATH}",
    "usage": f"GET {USAGE_PATHS[0]}",
    "health": f"GET {READY_PATHS[1]}",
    "live": f"GET {LIVE_PATHS[0]}",
    "ready": f"GET {READY_PATHS[0]}",
    "metrics": f"GET {METRICS_PATH}",
    "docs": f"GET {DOCS_PATH}",
    "ui": f"GET {UI_PATH}",
    "openapi": f"GET {OPENAPI_PATH}",
}


def endpoints(settings: Settings) -> dict[str, str]:
    """Method and path of everything that the first port serves under these settings, by what it is for."""
    absent = {
        name
        for name, is_there in (
            ("metrics", settings.metrics.enabled and settings.server.admin_port is None),
            ("usage", settings.auth.usage_file is not None),
            ("files", settings.jobs.folder is not None),
            ("batches", settings.jobs.folder is not None),
            ("ui", settings.ui.enabled),
        )
        if not is_there
    }
    return {name: where for name, where in _ENDPOINTS.items() if name not in absent}


def routes_text(settings: Settings) -> str:
    """All endpoints in a sentence, for people who got the URL wrong."""
    return f"This service answers: {', '.join(endpoints(settings).values())}."
