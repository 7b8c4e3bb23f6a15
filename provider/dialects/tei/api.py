"""TEI's API: its paths, its errors, and `GET /info`."""

from typing import Any, TypedDict

from litestar import Controller, Request, get
from litestar.di import NamedDependency

import provider
from provider import errors
from provider.dialects import vectors
from provider.dialects.dialect import Dialect, Failure, Route
from provider.dialects.scores.controller import answer_rerank
from provider.dialects.tei import routes, schemas
from provider.dialects.tei.bodies import EMPTY
from provider.domain import DenseTask, ModelSpec, ScoreTask, SparseTask
from provider.engine.engine import Engine
from provider.http.auth import RequireKey, caller_of
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import RERANK_PATHS
from provider.settings import Settings

_TITLE = "Text Embeddings Inference"
_POOLING = {"lasttoken": "last_token"}


class Info(TypedDict):
    """A model, and what one request may hold."""

    model_id: str
    model_sha: str | None
    model_dtype: str | None
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class InfoController(Controller):
    """What is served."""

    middleware = [RequireKey]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = [_TITLE]  # noqa: RUF012
    opt = {"dialect": "tei"}  # noqa: RUF012

    @get("/info")
    async def info(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> Info:
        """The model that answers TEI's requests, and its limits; of several, that of the query parameter `model`."""
        name = await vectors.chosen(request, service, request.query_params.get("model", ""))
        runtime = service.runtime(name, caller_of(request.scope))
        model = await runtime.ready()
        settings: Settings = request.app.state.settings
        return {
            "model_id": runtime.name,
            "model_sha": model.source.revision,
            "model_dtype": model.backend.traits.dtype,
            "served_model_name": name,
            "model_type": _model_type(model.spec),
            "max_concurrent_requests": settings.queue.max_requests,
            "max_input_length": model.spec.max_tokens,
            "max_batch_tokens": model.limits.max_tokens,
            "max_batch_requests": model.limits.max_rows,
            "max_client_batch_size": service.limits.max_inputs,
            "auto_truncate": runtime.settings.truncate != "none",
            "tokenization_workers": 2,
            "version": provider.__version__,
            "sha": None,
            "docker_label": None,
        }


def _model_type(spec: ModelSpec) -> dict[str, Any]:
    scores, dense = spec.find(ScoreTask), spec.find(DenseTask)
    if scores is not None:
        labels = {
            "id2label": {str(i): label for i, label in enumerate(scores.labels)},
            "label2id": {label: i for i, label in enumerate(scores.labels)},
        }
        return {"reranker" if len(scores.labels) == 1 else "classifier": labels}
    if dense is not None:
        return {"embedding": {"pooling": "+".join(_POOLING.get(each, each) for each in dense.pooling)}}
    return {"embedding": {"pooling": "splade" if spec.find(SparseTask) is not None else "none"}}


def write_error(failure: Failure) -> dict[str, Any]:
    """TEI's error body."""
    return {"error": failure.message, "error_type": _error_type(failure)}


def _error_type(failure: Failure) -> str:
    if failure.status == 429:
        return "Overloaded"
    if failure.status == 503:
        return "Unhealthy"
    if failure.status >= 500:
        return "Backend"
    if failure.code == EMPTY:
        return "Empty"
    return "Tokenizer" if isinstance(failure.cause, errors.InvalidInput) else "Validation"


_TEXTS: dict[str, Any] = {"inputs": ["A cat.", "A dog."], "truncate": True}
_SENTENCES = {"inputs": {"source_sentence": "A cat.", "sentences": ["A dog.", "A kitten."]}}
_RANKED: dict[str, Any] = {"query": "Where do cats sit?", "texts": ["On mats.", "In 1998."]}
_PATHS = ("/embed_all", "/embed", "/embed_sparse", "/similarity", "/predict", "/tokenize", "/decode", "/info", "/")
TEI = Dialect(
    name="tei",
    title=_TITLE,
    description="TEI's paths, which name no model: the only one that can answer does.",
    paths=_PATHS,
    write_error=write_error,
    routes=(
        Route(
            ["/embed"],
            routes.answer_embed,
            schemas.EMBED_REQUEST,
            schemas.EMBEDDED,
            _TEXTS,
            tasks=["embed"],
            told_by=("inputs",),
        ),
        Route(["/"], routes.answer_root, schemas.ROOT_REQUEST, schemas.ROOT, _TEXTS, tasks=["embed", "classify"]),
        Route(
            ["/similarity"],
            routes.answer_similarity,
            schemas.SIMILARITY_REQUEST,
            schemas.SIMILARITIES,
            _SENTENCES,
            tasks=["embed"],
        ),
        Route(
            ["/embed_sparse"],
            routes.answer_embed_sparse,
            schemas.TOKENS_REQUEST,
            schemas.SPARSE_VECTORS,
            _TEXTS,
            tasks=["embed"],
        ),
        Route(
            ["/embed_all"],
            routes.answer_embed_all,
            schemas.TOKENS_REQUEST,
            schemas.TOKEN_VECTORS,
            _TEXTS,
            tasks=["embed"],
        ),
        Route(
            ["/predict"],
            routes.answer_predict,
            schemas.PREDICT_REQUEST,
            schemas.PREDICTIONS,
            {"inputs": "Great!"},
            tasks=["classify"],
        ),
        Route(
            RERANK_PATHS,
            answer_rerank,
            schemas.RERANK_REQUEST_AT_ROOT,
            schemas.RANKS,
            _RANKED,
            tasks=["rerank"],
            told_by=("texts",),
        ),
        # Elasticsearch's name for texts, where no other dialect has it.
        Route(
            ["/"],
            answer_rerank,
            schemas.RERANK_REQUEST_AT_ROOT,
            schemas.RANKS,
            _RANKED,
            tasks=["rerank"],
            told_by=("texts", "documents"),
        ),
        Route(
            ["/tokenize"],
            routes.answer_tokenize,
            schemas.TOKENIZE_REQUEST,
            schemas.TOKENS,
            {"inputs": "A cat."},
            told_by=("inputs",),
        ),
        Route(["/decode"], routes.answer_decode, schemas.DECODE_REQUEST, schemas.TEXTS, {"ids": [101, 102]}),
    ),
    handlers=(InfoController,),
)
