"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any, Literal, TypedDict

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from provider.api.auth import RequireKey
from provider.api.openapi import NEEDS_KEY, ModelsOperation
from provider.api.routes import MODEL_PATHS, MODELS_PATHS
from provider.engine.runtime import ModelRuntime
from provider.engine.service import EmbeddingService


class ModelEntry(TypedDict):
    """A model by one of its names. Facts of a model that is not loaded are null."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    state: str
    problem: str | None
    backend: str
    device: str | None
    dtype: str | None
    dimensions: int | None
    max_model_len: int | None
    pooling: str | None
    normalize: bool | None
    prompts: list[str] | None
    details: dict[str, Any] | None
    notices: list[str] | None
    fingerprint: str | None
    verified: dict[str, Any] | None
    lanes: int | None
    threads_per_lane: int | None
    batch_tokens: int | None
    neighbours: str | None
    tuning: dict[str, Any] | None


class ModelList(TypedDict):
    """Every name that clients may ask for."""

    object: Literal["list"]
    data: list[ModelEntry]


class ModelsController(Controller):
    """What can be asked for."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Models"]  # noqa: RUF012

    @get(MODELS_PATHS, operation_class=ModelsOperation)
    async def list_models(self, service: NamedDependency[EmbeddingService]) -> ModelList:
        """All configured models, and their aliases and hub ids as models of their own."""
        entries = [describe(name, service.runtime(name)) for name, _ in service.catalogue.names()]
        return {"object": "list", "data": entries}

    @get(MODEL_PATHS, operation_class=ModelsOperation)
    async def retrieve(self, model_id: FromPath[str], service: NamedDependency[EmbeddingService]) -> ModelEntry:
        """One model, by name or alias; names may hold slashes, encoded or not."""
        # A path parameter keeps the slash before it.
        name = str(model_id).removeprefix("/")
        return describe(name, service.runtime(name))


def describe(name: str, runtime: ModelRuntime) -> ModelEntry:
    """OpenAI's four keys, and what operators ask about."""
    model = runtime.loaded
    spec, traits = (model.spec, model.backend.traits) if model else (None, None)
    return {
        "id": name,
        "object": "model",
        "created": runtime.created,
        "owned_by": "emb-provider",
        # As vLLM has it: what an alias stands for.
        "root": runtime.name,
        "state": str(runtime.state),
        "problem": runtime.problem,
        "backend": runtime.settings.backend,
        "device": traits.device if traits else None,
        "dtype": traits.dtype if traits else None,
        "dimensions": spec.dimension if spec else None,
        "max_model_len": spec.max_tokens if spec else None,
        "pooling": "+".join(spec.pooling) if spec else None,
        "prompts": sorted(spec.prompts) if spec else None,
        "normalize": spec.normalize if spec else None,
        "notices": list(runtime.notices) if spec else None,
        "details": dict(traits.extra) if traits else None,
        "fingerprint": model.fingerprint if model else None,
        "verified": runtime.verified.summary() if runtime.verified else None,
        "lanes": model.plan.lanes if model else None,
        "threads_per_lane": model.plan.threads if model else None,
        "batch_tokens": model.limits.max_tokens if model else None,
        "neighbours": model.neighbours.allowed if model else None,
        "tuning": model.tuned.described() if model and model.tuned else None,
    }
