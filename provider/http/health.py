"""Health that tells the truth: alive is not ready, and neither runs the model."""

from typing import Any, Literal, NotRequired, TypedDict

from litestar import Controller, Request, Response, get
from litestar.di import NamedDependency

from provider.engine.engine import Engine
from provider.engine.hooks import ModelState
from provider.engine.runtime import ModelRuntime
from provider.http.auth import sees_models
from provider.http.openapi import ReadinessOperation
from provider.http.routes import LIVE_PATHS, MODELS_PATHS, READY_PATHS


class Liveness(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """Whether all models work that are to be there from the start, and why not."""

    status: Literal["ready", "not_ready", "draining"]
    models: dict[str, str]
    problems: dict[str, str]
    degraded: dict[str, str]
    worker: NotRequired[int]


class HealthController(Controller):
    """For load balancers, orchestrators and people. No key needed, but to see names of models that are protected."""

    tags = ["Health"]  # noqa: RUF012 - Litestar's way

    @get(LIVE_PATHS)
    async def live(self) -> Liveness:
        """The process answers. Restart it when this fails."""
        return {"status": "alive"}

    @get(READY_PATHS, operation_class=ReadinessOperation)
    async def ready(self, request: Request[Any, Any, Any], service: NamedDependency[Engine]) -> Response[Readiness]:
        """200 when every model that was asked for is loaded, warm and working; else 503 and the reasons."""
        problems = service.problems
        is_shown = sees_models(request.scope)
        status: Literal["ready", "not_ready", "draining"] = (
            "draining" if request.app.state.lifecycle.is_draining else "not_ready" if problems else "ready"
        )
        body: Readiness = {
            "status": status,
            "models": {name: str(runtime.state) for name, runtime in service.runtimes.items() if is_shown(name)},
            "problems": {
                name: _for_everyone(service.runtimes[name], text) for name, text in problems.items() if is_shown(name)
            },
            "degraded": {
                name: text for name, each in service.runtimes.items() if is_shown(name) and (text := each.degraded)
            },
        }
        if not service.worker.is_alone:
            body["worker"] = service.worker.number
        headers = {"retry-after": "5"} if status != "ready" else {}
        if not service.worker.is_alone:
            # Over a kept connection, a prober would hear of this worker only.
            headers["connection"] = "close"
        return Response(body, status_code=200 if status == "ready" else 503, headers=headers)


def _for_everyone(runtime: ModelRuntime, problem: str) -> str:
    """Health needs no key, and the reason of a failure may name folders and repositories."""
    if runtime.failure is None:
        return problem
    again = "; tried again" if runtime.state is ModelState.FAILED else "; being tried again"
    return f"could not be loaded; GET {MODELS_PATHS[0]} and the log have the reason{again}"
