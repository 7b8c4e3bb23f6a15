"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any, Literal, TypedDict, cast

from attrs import asdict
from litestar import Controller, Request, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from provider.dialects.openai.operations import ModelsOperation
from provider.engine.engine import Engine
from provider.engine.runtime import ModelRuntime
from provider.http.auth import RequireKey, caller_of
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import MODEL_PATHS, MODELS_PATHS


class DownloadEntry(TypedDict):
    """How much of a model's files has come."""

    bytes: int
    total_bytes: int


class ModelEntry(TypedDict):
    """A model by one of its names. Facts of a model that is not loaded are null."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    state: str
    problem: str | None
    download: DownloadEntry | None
    degraded: str | None
    backend: str
    device: str | None
    dtype: str | None
    task: str | None
    outputs: list[str] | None
    labels: list[str] | None
    scores: Literal["logits", "probabilities"] | None
    dimensions: int | None
    max_model_len: int | None
    pooling: str | None
    normalize: bool | None
    similarity: str | None
    reads_input_type: bool | None
    prompts: list[str] | None
    recipe: dict[str, str] | None
    details: dict[str, Any] | None
    notices: list[str] | None
    fingerprint: str | None
    verified: dict[str, Any] | None
    lanes: int | None
    threads_per_lane: int | None
    batch_tokens: int | None
    resident_bytes: int | None
    neighbours: str | None
    tuning: dict[str, Any] | None


class ModelList(TypedDict):
    """Every name that clients may ask for, and the APIs in which they may, by name."""

    object: Literal["list"]
    data: list[ModelEntry]
    dialects: list[str]


class ModelsController(Controller):
    """What can be asked for."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Models"]  # noqa: RUF012
    opt = {"dialect": "openai"}  # noqa: RUF012

    @get(MODELS_PATHS, operation_class=ModelsOperation)
    async def list_models(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ModelList:
        """All models that the key may use, and their aliases and hub ids as models of their own."""
        return list_models(request, service)

    @get(MODEL_PATHS, operation_class=ModelsOperation)
    async def retrieve(
        self, request: Request[Any, Any, Any], model_id: FromPath[str], service: NamedDependency[Engine]
    ) -> ModelEntry:
        """One model, by name or alias; names may hold slashes, encoded or not."""
        return retrieve_model(request, str(model_id), service)


def list_models(request: Request[Any, Any, Any], service: Engine) -> ModelList:
    """All models that the key may use, and the dialects that are on."""
    caller = caller_of(request.scope)
    names = [name for name, model in service.catalogue.names() if caller.may_use(model)]
    entries = [describe(name, service.runtime(name)) for name in names]
    return {"object": "list", "data": entries, "dialects": request.app.state.dialects}


def retrieve_model(request: Request[Any, Any, Any], model_id: str, service: Engine) -> ModelEntry:
    """The model of that name or alias.

    Raises:
        ModelNotFound: none.
        ModelForbidden: the key may not use it.
    """
    # A path parameter keeps the slash before it.
    name = model_id.removeprefix("/")
    return describe(name, service.runtime(name, caller_of(request.scope)))


def describe(name: str, runtime: ModelRuntime) -> ModelEntry:
    """OpenAI's four keys, and what operators ask about."""
    found = runtime.description if runtime.loaded else None
    known = found.values() if found else {}
    download = runtime.steps.download if runtime.steps else None
    entry = {
        "id": name,
        "object": "model",
        "created": runtime.created,
        "owned_by": "emb-provider",
        # As vLLM has it: what an alias stands for.
        "root": runtime.name,
        "state": str(runtime.state),
        "problem": runtime.problem,
        "download": asdict(download) if download else None,
        "degraded": runtime.degraded,
        "resident_bytes": runtime.use.bytes if found else None,
        "max_model_len": known.get("max_tokens"),
        "verified": runtime.verified.summary() if runtime.verified else None,
    }
    entry |= {key: known.get(key) for key in ModelEntry.__annotations__ if key not in entry}
    # Also of a model that is not loaded; and what requests have shown since.
    entry |= {
        "backend": known.get("backend", runtime.settings.backend),
        "notices": list(runtime.notices) if found else None,
    }
    return cast("ModelEntry", entry)
