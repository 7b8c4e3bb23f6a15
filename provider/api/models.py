"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from provider.api.auth import RequireKey
from provider.api.routes import MODEL_PATHS, MODELS_PATHS
from provider.engine.runtime import ModelRuntime
from provider.engine.service import EmbeddingService


class ModelsController(Controller):
    """What can be asked for."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    tags = ["Models"]  # noqa: RUF012

    @get(MODELS_PATHS)
    async def list_models(self, service: NamedDependency[EmbeddingService]) -> dict[str, Any]:
        """All configured models, and their aliases and hub ids as models of their own."""
        entries = [describe(name, service.runtime(name)) for name, _ in service.catalogue.names()]
        return {"object": "list", "data": entries}

    @get(MODEL_PATHS)
    async def retrieve(self, model_id: FromPath[str], service: NamedDependency[EmbeddingService]) -> dict[str, Any]:
        """One model, by name or alias; names may hold slashes, encoded or not."""
        # A path parameter keeps the slash before it.
        name = str(model_id).removeprefix("/")
        return describe(name, service.runtime(name))


def describe(name: str, runtime: ModelRuntime) -> dict[str, Any]:
    """OpenAI's four keys, and what operators ask about. Facts of a model that is not loaded are null."""
    model = runtime.loaded
    entry: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": runtime.created,
        "owned_by": "emb-provider",
        # As vLLM has it: what an alias stands for.
        "root": runtime.name,
        "state": str(runtime.state),
        "problem": runtime.problem,
        "backend": runtime.settings.backend,
    }
    spec, traits = (model.spec, model.backend.traits) if model else (None, None)
    return entry | {
        "device": traits.device if traits else None,
        "dtype": traits.dtype if traits else None,
        "dimensions": spec.dimension if spec else None,
        "max_model_len": spec.max_tokens if spec else None,
        "pooling": "+".join(spec.pooling) if spec else None,
        "prompts": sorted(spec.prompts) if spec else None,
        "details": dict(traits.extra) if traits else None,
        "fingerprint": model.fingerprint if model else None,
        "verified": runtime.verified.summary() if runtime.verified else None,
        "lanes": model.plan.lanes if model else None,
        "threads_per_lane": model.plan.threads if model else None,
        "batch_tokens": model.limits.max_tokens if model else None,
        "neighbours": model.neighbours.allowed if model else None,
        "tuning": model.tuned.described() if model and model.tuned else None,
    }
