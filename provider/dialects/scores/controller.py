"""`POST /v1/rerank`, `/v1/score` and `/v1/classify`, each under its other names too."""

from collections.abc import Callable
from functools import partial
from typing import Any

from attrs import evolve
from litestar import Controller, Request, post
from litestar.di import NamedDependency
from litestar.types import ASGIApp

from provider.dialects.phrases import FieldNames
from provider.dialects.scores import rerank, vllm
from provider.dialects.scores.operations import ClassifyOperation, ScoreOperation
from provider.dialects.truncation import Cut
from provider.domain import ModelSpec, Scored, ScoreRequest, ScoreTask
from provider.engine.engine import Engine
from provider.http.admission import Admission
from provider.http.auth import RequireKey, caller_of
from provider.http.connection import while_connected
from provider.http.exchange import answer, model_for, parsed, whole_body
from provider.http.openapi import NEEDS_KEY
from provider.http.routes import CLASSIFY_PATHS, INFINITY_RERANK_PATH, SCORE_PATHS
from provider.tasks.scores import check_one_label

_BYTES_PER_RESULT, _BYTES_PER_PROBABILITY = 100, 24


async def answer_rerank(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Put documents in the order of their relevance to a query, the best first."""
    template = request.scope["path_template"]
    call = await parsed(request, body, service, partial(rerank.parse, is_tei=template == "/"))
    model, scored = await scored_by(request, service, call.request, call.names, one_label=True, cut=call.cut)
    shown = sum(map(len, call.request.texts)) if call.returns_documents else 0
    write = partial(
        rerank.write,
        call,
        scored,
        model=model,
        request_id=_request_id(request),
        is_infinity=template == INFINITY_RERANK_PATH,
    )
    return await answer_scored(request, write, scored, _BYTES_PER_RESULT * len(scored.scores) + 2 * shown)


async def answer_score(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Score pairs of texts."""
    call = await parsed(request, body, service, vllm.parse_score)
    model, scored = await scored_by(request, service, call, vllm.SCORE_NAMES, one_label=True)
    write = partial(vllm.write_scores, scored, model=model, request_id=_request_id(request))
    return await answer_scored(request, write, scored, _BYTES_PER_RESULT * len(scored.scores))


async def answer_classify(request: Request[Any, Any, Any], body: bytes, service: Engine) -> ASGIApp:
    """Give the probability of each label."""
    call = await parsed(request, body, service, vllm.parse_classify)
    model, scored = await scored_by(request, service, call, vllm.CLASSIFY_NAMES, one_label=False)
    write = partial(vllm.write_classes, scored, model=model, request_id=_request_id(request))
    size = _BYTES_PER_RESULT * len(scored.scores) + _BYTES_PER_PROBABILITY * scored.scores.size
    return await answer_scored(request, write, scored, size)


class ScoresController(Controller):
    """Scores of pairs and of single texts."""

    middleware = [RequireKey, Admission]  # noqa: RUF012 - Litestar's way
    security = NEEDS_KEY
    tags = ["Scores"]  # noqa: RUF012
    opt = {"dialect": "openai"}  # noqa: RUF012

    @post(SCORE_PATHS, status_code=200, operation_class=ScoreOperation, opt={"tasks": ["score"]})
    async def score(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ASGIApp:
        """Score pairs of texts; scores come in the order of the pairs."""
        return await answer_score(request, await whole_body(request.scope, request.receive), service)

    @post(CLASSIFY_PATHS, status_code=200, operation_class=ClassifyOperation, opt={"tasks": ["classify"]})
    async def classify(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> ASGIApp:
        """The probability of each of the model's labels, for texts or pairs of texts."""
        return await answer_classify(request, await whole_body(request.scope, request.receive), service)


async def scored_by(
    request: Request[Any, Any, Any],
    engine: Engine,
    call: ScoreRequest,
    names: FieldNames,
    *,
    one_label: bool,
    cut: Cut | None = None,
) -> tuple[str, Scored]:
    """The model's name as it is answered, and the scores; `cut` wins over the `truncate` of `call`."""
    caller = caller_of(request.scope)
    model = call.model or await model_for(
        engine, caller, "rerank" if one_label else "give scores", lambda spec: _gives_scores(spec, one_label=one_label)
    )
    state = request.scope["state"]
    state["model"], state["field_names"] = model, names
    runtime = engine.runtime(model, caller)
    task = (await runtime.ready()).spec.find(ScoreTask)
    if one_label and task is not None:
        check_one_label(task, model=model)
    waiting = partial(while_connected, request)
    truncate = call.truncate if cut is None else cut.resolved(runtime.settings.truncate)
    return model, await engine.score(evolve(call, model=model, truncate=truncate), caller=caller, waiting=waiting)


def _gives_scores(spec: ModelSpec, *, one_label: bool) -> bool:
    task = spec.find(ScoreTask)
    return task is not None and (not one_label or len(task.labels) == 1)


async def answer_scored(
    request: Request[Any, Any, Any], write: Callable[[], bytes], scored: Scored, size: int
) -> ASGIApp:
    """The answer whose body `write` gives, about `size` bytes."""
    return await answer(request, write, size=size, fingerprint=scored.fingerprint, truncated=scored.truncated)


def _request_id(request: Request[Any, Any, Any]) -> str:
    return str(request.scope["state"]["request_id"])
